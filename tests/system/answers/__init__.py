"""Every held-out question of the built-in adapters over both backends, from the same float32 base, word for word."""
