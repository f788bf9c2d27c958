"""`edgelora train`: examples in, an installed adapter version out. mlx-lm's trainer does the training.

Imports `runtime` and what stands below it.
"""
