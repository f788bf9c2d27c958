"""`edgelora verify`: conversions compared with their sources, and the runtime compared with the numpy oracle."""
