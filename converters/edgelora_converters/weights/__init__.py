"""The weights of a base, opened as rows of float arrays whatever file they stand in."""
