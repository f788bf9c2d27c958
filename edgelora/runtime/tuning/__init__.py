"""`edgelora tune`: which threads, weights and batch sizes are fastest on this machine.

Measured in interleaved rounds, kept in the state folder, and used at the next start.
"""
