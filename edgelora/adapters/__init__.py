"""Adapters at run time: what is installed (store), what is in memory (pool), and the thread that loads (loader)."""
