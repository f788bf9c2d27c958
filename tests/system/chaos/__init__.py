"""kill -9 of the engine's process and of the whole server, under load, at seeded moments: `python -m
tests.system.chaos`.
"""
