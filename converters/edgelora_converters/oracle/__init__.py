"""A Llama in numpy, the reference that every backend is compared with."""
