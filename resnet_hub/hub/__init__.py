"""Upload networks to the Hugging Face Hub and download them; model cards."""
