"""The llama.cpp backend: llama-cpp-python's low-level API, with every token's own LoRA delta added in the graph.

Importing `spec` or `options` loads no native library; `backend` does, when a base is opened.
"""
