"""`edgelora train`: examples in, an installed adapter version out. The training itself is mlx-lm's."""
