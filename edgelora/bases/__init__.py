"""Bases on disk: records, the registry, downloads and the built-in one."""
