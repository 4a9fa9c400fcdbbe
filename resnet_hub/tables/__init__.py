"""The tables of architectures, data sets and weights. They need neither torch nor timm."""
