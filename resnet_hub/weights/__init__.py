"""The pretrained weights: the table of them, and a row to a verified file."""
