"""The MLX backend: a Llama on mlx's arrays, with every row's own LoRA deltas added module by module.

Only `backend` and what it uses import mlx. mlx-lm's format of a base and of an adapter is what is read; mlx-lm itself
is not imported: see docs/decisions/0007-mlx.md.
"""
