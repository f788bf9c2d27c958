"""The next token: logits processors, truncation, guided decoding and log-probabilities of one sequence.

Pure numpy. Imports `core`.
"""
