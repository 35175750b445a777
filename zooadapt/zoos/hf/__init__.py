"""Image models of Hugging Face transformers."""
