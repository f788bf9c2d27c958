"""Installed adapters: the content-addressed store, its manifests, conversions and maintenance.

Owns the files below the data folder's `adapters`; imports `store.bases` for the base a conversion is for.
"""
