"""mlx-lm's adapter format: the writer and the reader."""
