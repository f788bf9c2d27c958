"""The llama.cpp backend: llama-cpp-python's low-level API, with every token's own LoRA delta added in the graph.

Importing this package loads no native library; `edgelora.backends.llama_cpp.backend` does, when a base is opened.
"""

from edgelora.backends.llama_cpp.options import BackendOptions

__all__ = ["BackendOptions"]
