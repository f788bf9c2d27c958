"""Benchmarks: run by hand on a quiet machine, ratios within one run, never part of the tests.

`python -m benchmarks` lists them.
"""
