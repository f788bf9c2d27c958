"""The duration of a step by its number of rows, learned from measured steps, and the prefill chunk chosen from it.

Pure: times are values that the engine passes in.
"""
