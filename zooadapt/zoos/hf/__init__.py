"""The zoo of Hugging Face transformers' image models."""
