"""Code that the verbs share: options, output, progress, answers and the translation of errors."""
