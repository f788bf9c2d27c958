"""Benchmarks of waiting: starts, loads, switches, first tokens."""
