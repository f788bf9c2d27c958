"""The Hugging Face hub: listing and reading repositories, resumable downloads, and the cache of pulled adapters.

The only folder that opens outgoing connections. Imports `core`.
"""
