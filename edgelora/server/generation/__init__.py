"""Generations, whichever API requests them: body fields, adapters, following the engine's streams, writing chunks.

Knows no API by name; each API brings a dialect.
"""
