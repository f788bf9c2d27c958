"""Training for real: the built-in base, the command line, Ctrl-C and kill -9. Run as `python -m
tests.system.training`.
"""
