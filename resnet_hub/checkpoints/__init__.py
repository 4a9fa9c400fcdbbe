"""Any file in the wild to safetensors + config.json."""
