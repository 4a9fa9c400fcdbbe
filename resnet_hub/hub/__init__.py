"""To the Hugging Face Hub and back: model card, upload, download."""
