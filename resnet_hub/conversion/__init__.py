"""Convert a checkpoint of another code base to a model folder."""
