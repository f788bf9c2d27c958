"""Adapters in memory: the pool of slots under a byte budget, usage counts, and the loader thread.

Owns which adapter has which slot; the backend owns the arrays.
"""
