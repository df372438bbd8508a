"""The ViViT model: Hugging Face names outside, hook points inside."""
