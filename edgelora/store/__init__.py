"""What is installed on disk: adapters, bases, KV prefixes, uploads and API keys, and the hub they may come from.

Content-addressed and crash-safe; readers take no lock. Imports `core`, `text` and the converters; never a backend.
"""
