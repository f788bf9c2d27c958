"""Shared code of the verbs: options, output, progress, answers and the translation of errors."""
