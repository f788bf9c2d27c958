"""An adapter merged into a base, block by block in float64, for GGUF and Hugging Face weights."""
