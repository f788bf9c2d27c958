"""Bases from Hugging Face checkpoints to GGUF and MLX: weights, tokenizer, quantization and verification."""
