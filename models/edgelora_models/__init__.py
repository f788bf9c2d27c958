"""What edgelora knows of base models: names, shapes, fingerprints, the catalogue, and the built-in demonstration."""
