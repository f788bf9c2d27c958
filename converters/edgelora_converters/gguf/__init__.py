"""GGUF adapters: the writer, the reader, and edits of a GGUF header."""
