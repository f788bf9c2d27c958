"""Keeps numpy's BLAS to one thread, where its own threads would cost more than they bring.

While a delta is added llama.cpp's threads wait, spinning, on the other cores, and a second BLAS thread fights them:
2 cores, 8 rows, rank 16, the shapes of Llama-3.1-8B: 18 ms a step with one BLAS thread, 60 ms with two. A gate's
products are small, and BLAS threads spin between them: beside other work a conversion took many times as long.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Inside the block numpy's OpenBLAS uses one thread, in the whole process. Does nothing with another BLAS."""
    blas = _openblas()
    if blas is None:
        yield
        return
    before = blas.scipy_openblas_get_num_threads64_()
    blas.scipy_openblas_set_num_threads64_(1)
    try:
        yield
    finally:
        blas.scipy_openblas_set_num_threads64_(before)


@cache
def _openblas() -> ctypes.CDLL | None:
    """Return the OpenBLAS inside numpy's wheel, which is loaded already; None where numpy was built with another."""
    package = Path(np.__file__).parent
    for folder in (package.with_name("numpy.libs"), package / ".dylibs"):
        for path in folder.glob("libscipy_openblas64_*"):
            library = ctypes.CDLL(str(path))
            if hasattr(library, "scipy_openblas_set_num_threads64_"):
                return library
    return None
