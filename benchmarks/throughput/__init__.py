"""Benchmarks of tokens per second and of what a step takes."""
