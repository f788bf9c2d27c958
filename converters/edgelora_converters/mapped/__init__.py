"""The layout that the CPU kernels map from disk: 16-bit factors as the source has them, the scale apart."""
