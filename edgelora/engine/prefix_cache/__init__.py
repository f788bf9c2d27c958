"""The transfer of KV prefixes between the engine and the disk: lookups, reads, and the writer thread.

Imports `store.prefixes` for the files.
"""
