"""KV of prompt prefixes on disk: the file format, the index and the store.

A file is found by what it was computed from and believed only when its digest holds. Imports `core`.
"""
