"""Checks of the whole program: long runs, other processes, real clients and a real browser."""
