"""One BLAS thread while a delta is computed, and as many as before afterwards."""

from __future__ import annotations

import pytest

from edgelora_converters.tensors import blas_threads


def test_threads_come_back_even_after_an_error() -> None:
    """The limit ends with the block: the rest of the process keeps its own number."""
    blas = blas_threads._openblas()
    if blas is None:
        pytest.skip("this numpy was built with another BLAS")
    before = blas.scipy_openblas_get_num_threads64_()
    with pytest.raises(ZeroDivisionError), blas_threads.one_blas_thread():
        assert blas.scipy_openblas_get_num_threads64_() == 1
        raise ZeroDivisionError
    assert blas.scipy_openblas_get_num_threads64_() == before


def test_another_blas_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where numpy has no OpenBLAS of its own, the block just runs."""
    monkeypatch.setattr(blas_threads, "_openblas", lambda: None)
    with blas_threads.one_blas_thread():
        reached = True
    assert reached
