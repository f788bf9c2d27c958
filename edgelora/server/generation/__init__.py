"""A generation whatever API asked for it: the fields, the adapters, following a stream, writing chunks.

Knows no API by name; each of them brings a dialect.
"""
