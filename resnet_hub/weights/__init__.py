"""Model folders, the bundled weights and recipes, and functions that get a verified file for a row of the table of weights."""
