"""Installed bases: records, the registry, the choice of a base's form for a backend, and downloads of bases.

Owns the files below the data folder's `bases`; imports `store.hub`.
"""
