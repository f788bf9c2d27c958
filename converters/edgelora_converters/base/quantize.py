"""K-quants: a GGUF base quantized by libllama, in a process of its own that ends when this one wants it to.

Owns that process; what it does is `quantize_child`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from edgelora_converters.base import quantize_worker
from edgelora_models.errors import BaseError

FILE_TYPES: Mapping[str, int] = {"Q6_K": 18, "Q5_K_M": 17, "Q4_K_M": 15, "Q3_K_M": 12, "Q2_K": 10}
"""llama.cpp's mixes that are offered, with their llama_ftype."""
_KEPT_BYTES = 4096
"""Bytes of the quantizer's output that are kept."""


def quantize_file(
    source: Path,
    out: Path,
    *,
    mix: str,
    threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Quantize the GGUF base `source` to `out`. `threads` 0: one for each core; `progress`: tensors done and in all.

    Rows that are no multiple of 256 get another type, as libllama chooses it. Interrupted by an exception it ends at
    once; what is then at `out` is the caller's to remove. Raises BaseError (`base_quantize`).
    """
    # -P: this package's folder must not come before the installed packages.
    command = [sys.executable, "-P", str(Path(quantize_worker.__file__)), str(source), str(out)]
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [*command, str(FILE_TYPES[mix]), str(threads)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            for line in child.stdout or ():
                done, total = line.split()
                if progress is not None:
                    progress(int(done), int(total))
            code = child.wait()
        finally:
            _end(child)
        if code != 0:
            raise _failed(code, errors)


def _end(child: subprocess.Popen[str]) -> None:
    """End the process and close its pipe. Safe where it has ended."""
    child.kill()
    child.wait()
    if child.stdout is not None:
        child.stdout.close()


def _failed(code: int, errors: IO[bytes]) -> BaseError:
    size = errors.seek(0, 2)
    errors.seek(max(0, size - _KEPT_BYTES))
    lines = errors.read().decode("utf-8", "replace").strip().splitlines()
    why = lines[-1] if lines else f"it ended with {code}"
    remedy = "Check that there is space on the disk, and that llama-cpp-python is installed."
    return BaseError("base_quantize", f"libllama could not quantize the base: {why[:300]}.", remedy)
