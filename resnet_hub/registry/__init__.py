"""Make timm and torch.hub entrypoints from the tables, and load networks by name."""
