"""The management token and the named API keys: private files, read again when they change.

Knows no HTTP. Imports `core`.
"""
