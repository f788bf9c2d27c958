"""The quantizer's process: it works, it fails in words, it ends when it is to end."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from edgelora_converters.base import quantize as base_quantize
from edgelora_converters.base.gguf import write_base_gguf
from edgelora_converters.base.quantize import quantize_file
from edgelora_models import builtin
from edgelora_models.errors import BaseError
from tests.support.bases import write_tiny_gguf
from tests.support.lora import GQA


def test_tensors_are_counted(tmp_path: Path) -> None:
    """Progress is told tensor by tensor, up to all of them."""
    told: list[tuple[int, int]] = []
    write_tiny_gguf(tmp_path / "source.gguf", GQA, seed=0)
    quantize_file(
        tmp_path / "source.gguf", tmp_path / "out.gguf", mix="Q4_K_M", threads=1,
        progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert told == [(n, len(told)) for n in range(1, len(told) + 1)]
    assert len(told) == 22


def test_failures_say_why(tmp_path: Path) -> None:
    """A file that is no GGUF and a folder that is not there are told in libllama's words, with one code."""
    (tmp_path / "source.gguf").write_bytes(b"no model")
    with pytest.raises(BaseError) as caught:
        quantize_file(tmp_path / "source.gguf", tmp_path / "out.gguf", mix="Q4_K_M")
    assert caught.value.code == "base_quantize" and "failed to quantize" in caught.value.what
    write_base_gguf(builtin.base_hf(), tmp_path / "source.gguf", quantization="F16")
    with pytest.raises(BaseError) as caught:
        quantize_file(tmp_path / "source.gguf", tmp_path / "nowhere" / "out.gguf", mix="Q4_K_M")
    assert caught.value.code == "base_quantize"


def test_a_quantizer_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed assertion in libllama ends its own process only."""
    child = tmp_path / "child.py"
    child.write_text("import os\nos.abort()\n")
    monkeypatch.setattr(base_quantize.quantize_worker, "__file__", str(child))
    with pytest.raises(BaseError, match="ended with"):
        quantize_file(tmp_path / "a", tmp_path / "b", mix="Q6_K")


def test_no_process_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted, the quantizer is ended and waited for."""
    child = tmp_path / "child.py"
    child.write_text("import time\nprint('1 9', flush=True)\ntime.sleep(600)\n")
    monkeypatch.setattr(base_quantize.quantize_worker, "__file__", str(child))
    started: list[subprocess.Popen[str]] = []
    real = subprocess.Popen

    def watched(*arguments: object, **options: object) -> subprocess.Popen[str]:
        started.append(real(*arguments, **options))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", watched)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        quantize_file(tmp_path / "a", tmp_path / "b", mix="Q6_K", progress=interrupt)
    assert started[0].poll() is not None and time.monotonic() - begun < 300
