"""PEFT adapters in; GGUF and MLX adapters out; every conversion verified. Needs numpy, never torch, never the runtime."""
