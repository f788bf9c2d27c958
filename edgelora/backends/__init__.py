"""What runs the base and its adapters: the protocol, llama.cpp, MLX, and a scripted fake."""
