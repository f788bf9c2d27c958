"""Base models: names, shapes, fingerprints, the catalogue, the built-in demonstration, and the lowest file helpers."""
