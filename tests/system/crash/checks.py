"""What must hold of every file of the corpus: an error of the tree, or sound values that libllama can take.

Runs in the worker's process: what it is about ends processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelora.backends.base import Applied, Chunk
from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora.backends.llama_cpp.options import BackendOptions
from edgelora.core.errors import EdgeloraError
from edgelora_converters.convert.convert import Format, convert
from edgelora_converters.gguf import adapter_reader as gguf_adapter_reader
from edgelora_converters.lora.adapter import Target
from edgelora_converters.mapped import reader as mapped_reader
from edgelora_converters.mlx import writer as mlx_writer
from edgelora_converters.peft import reader as peft_reader
from edgelora_converters.tensors.dtypes import widened
from edgelora_models.fingerprint import BaseFingerprint
from edgelora_models.modules import EMBEDDING
from tests.system.crash.corpus import Case
from tests.system.crash.originals import SHAPE

_OPTIONS: dict[str, Any] = {
    "context_length": 64,
    "max_sequences": 1,
    "max_step_tokens": 16,
    "max_slots": 1,
    "kv_cells": 256,
    "threads": 1,
}
_BASE = BaseFingerprint("llama", SHAPE, vocabulary="a" * 64, template="b" * 64)
_FORMATS: tuple[Format, ...] = ("mapped", "gguf", "mlx")
_OUT: Mapping[Format, str] = {"mapped": "out.lora", "gguf": "out.gguf", "mlx": "out"}


class Wrong(Exception):
    """A file was taken that should not have been, or taken for something else, or something stayed behind."""


class Checker:
    """Holds a tiny base, opened twice: for the evaluation callback and for llama.cpp's own LoRA."""

    def __init__(self, base: Path) -> None:
        options = [BackendOptions(method=method, **_OPTIONS) for method in ("hook", "native")]
        self._hook, self._native = (LlamaCppBackend.open(base, shape=SHAPE, settings=option) for option in options)
        self._turn = 0

    def check(self, case: Case, folder: Path) -> str:
        """Write the case into the empty `folder` and try it. What came of it: `read`, or the error's code.

        Raises Wrong, and whatever else than an EdgeloraError comes out of the readers.
        """
        for name, data in case.files.items():
            (folder / name).write_bytes(data)
        try:
            getattr(self, f"_{case.kind}")(folder, folder / case.main)
            outcome = "read"
        except EdgeloraError as error:
            if not (error.code and error.what and error.remedy):
                raise Wrong(f"an error without code, words or remedy: {error!r}") from error
            outcome = error.code
        if {path.name for path in folder.iterdir()} != case.files.keys():
            raise Wrong(f"left behind: {sorted(path.name for path in folder.iterdir())}")
        return outcome

    def _gguf(self, _: Path, path: Path) -> None:
        pairs = gguf_adapter_reader.read(path, SHAPE)
        for target, (a, b) in pairs.items():
            _fits(target, a, b.T)
            _finite(target, a, b)
        _agrees_with_gguf_py(path, pairs)
        self._run(self._native, path)
        self._run(self._hook, path)

    def _mapped(self, _: Path, path: Path) -> None:
        # Values are not looked at by this reader: they were when the file was made.
        for target, pair in mapped_reader.read(path, SHAPE).pairs.items():
            _fits(target, pair.a.T if target.module == EMBEDDING else pair.a, pair.b)
            pair.a.view(np.uint8).max(), pair.b.view(np.uint8).max()
            if any(rows is not None and rows.shape != pair.b.shape[1:] for rows in (pair.row_scale, pair.bias)):
                raise Wrong(f"{target.hf_path} was read with rows of another width")
        self._run(self._hook, path)

    def _mlx(self, _: Path, path: Path) -> None:
        for target, (a, b, m) in mlx_writer.read(path, SHAPE).items():
            _fits(target, a.T, b)
            _finite(target, a, b, *([] if m is None else [m]))

    def _peft(self, folder: Path, path: Path) -> None:
        for target, pair in peft_reader.read(path, SHAPE).pairs.items():
            _fits(target, pair.a, pair.b.T)
            _finite(target, pair.a, pair.b)
        self._turn += 1
        to = _FORMATS[self._turn % len(_FORMATS)]
        out = folder / _OUT[to]
        convert(path, out, to=to, base=_BASE)
        try:
            if to != "mlx":
                self._run(self._hook, out)
            if to == "gguf":
                self._run(self._native, out)
        finally:
            _remove(out)

    def _run(self, backend: LlamaCppBackend, path: Path) -> None:
        """Load it as the runtime does, and compute a few tokens with it."""
        backend.attach(0, backend.load(path))
        backend.step([Chunk(0, 0, (3, 5, 8), (Applied(0),), 1)])
        backend.clear(0)
        backend.detach(0)

    def close(self) -> None:
        self._hook.close()
        self._native.close()


def _fits(target: Target, a: NDArray[Any], b: NDArray[Any]) -> None:
    """[rank, in] and [rank, out] of the base's widths."""
    wanted = (target.module.in_features(SHAPE), target.module.out_features(SHAPE))
    if (a.shape[1], b.shape[1]) != wanted or len(a) != len(b) or not len(a):
        raise Wrong(f"{target.hf_path} was read as {a.shape} and {b.shape}")


def _finite(target: Target, *factors: NDArray[Any]) -> None:
    if not all(np.isfinite(factor).all() for factor in factors):
        raise Wrong(f"{target.hf_path} was read with a value that is not finite")


def _agrees_with_gguf_py(path: Path, pairs: Mapping[Target, tuple[NDArray[Any], NDArray[Any]]]) -> None:
    """Names and values are those that the format's own library finds, b times its scale."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(path)
    found = {tensor.name: dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    names = {f"{t.gguf_path}.lora_{half}" for t in pairs for half in "ab"}
    if found.keys() != names:
        raise Wrong(f"gguf-py finds {sorted(found.keys() ^ names)} otherwise")
    field = reader.fields.get("adapter.lora.alpha")
    alpha = float(field.contents()) if field else 0.0
    for target, (a, b) in pairs.items():
        name = target.gguf_path
        scale = alpha / len(a) if alpha else 1.0
        scaled = (found[f"{name}.lora_b"].astype(np.float64) * scale).astype(np.float32)
        stored = found[f"{name}.lora_a"].T if target.module == EMBEDDING else found[f"{name}.lora_a"]
        if not (np.array_equal(widened(a), stored) and np.array_equal(b, scaled)):
            raise Wrong(f"gguf-py finds other values in {name}")


def _remove(path: Path) -> None:
    """What a successful conversion wrote, file or folder of files."""
    if path.is_dir():
        for inner in path.iterdir():
            inner.unlink()
        path.rmdir()
    else:
        path.unlink()
