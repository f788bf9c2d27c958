"""PEFT adapters in; GGUF and MLX adapters out; every conversion verified. Needs numpy, never torch or the runtime."""
