"""Tensor files and arrays: safetensors in and out, dtypes, row order, staging and digests."""
