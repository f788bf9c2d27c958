"""The store wing: adapters, bases, KV prefixes, uploads and API keys on disk, and the hub client that fetches them.

Content-addressed and crash-safe; readers take no lock. Imports `core`, `text` and the converters; never a backend.
"""
