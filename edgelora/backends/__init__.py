"""The backend protocol, and one folder for each backend.

A backend holds one base and any number of adapters, and computes a step for rows of different adapters.
Imports `core`, `text` and the converters; nothing above the protocol knows which backend it drives.
"""
