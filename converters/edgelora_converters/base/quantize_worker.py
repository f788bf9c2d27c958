"""A process for libllama's quantizer: `quantize_child.py SOURCE OUT FILE_TYPE THREADS`, started by `base_quantize`.

Not in our own process: the quantizer cannot be interrupted, and ends the process where an assertion of its fails.
stdout: a line `DONE ALL` for each tensor; stderr: what went wrong. Nothing of this package is imported.
"""

from __future__ import annotations

import ctypes
import re
import sys
from typing import Any

BUFFER_BYTES = 96 << 20
"""Bytes of rows in memory at once; libllama's default is 8 GiB."""
_ERROR = 4
"""GGML_LOG_LEVEL_ERROR"""
_TENSOR = re.compile(rb"\[ *(\d+)/ *(\d+)\]")


def main(source: str, out: str, file_type: str, threads: str) -> int:
    """0 where `out` has been written whole."""
    import llama_cpp

    callback = llama_cpp.llama_log_callback(_log)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    parameters: Any = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = int(file_type)
    parameters.nthread = int(threads)
    parameters.max_buf_size = BUFFER_BYTES
    return int(llama_cpp.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(parameters)))


def _log(level: int, text: bytes, _user: object) -> None:
    if match := _TENSOR.match(text.lstrip()):
        sys.stdout.write(f"{int(match[1])} {int(match[2])}\n")
        sys.stdout.flush()
    elif level == _ERROR:
        sys.stderr.write(text.decode("utf-8", "replace"))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
