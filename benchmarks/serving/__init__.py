"""Benchmarks of the server: HTTP, memory, published workloads, soaks."""
