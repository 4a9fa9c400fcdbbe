"""Convert a checkpoint of other code to a native model folder."""
