"""A resident base ready for requests: opening it, its adapters, compositions, tuning and verification.

The Python API (`Service`), the command line and the server call this wing. Imports all wings below it.
"""
