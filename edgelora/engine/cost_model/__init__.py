"""The time of a step by its rows, learnt from measured steps, and the prefill chunk that follows from it.

Pure: times are values that the engine passes in.
"""
