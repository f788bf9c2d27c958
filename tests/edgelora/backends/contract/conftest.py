"""Every backend there is, over the same tiny base and the same four adapters, one to a slot.

What is asked here is what `edgelora.backends.base` promises, and no more. The fake's adapters are words and its logits
leave no doubt; the other two compute the same Llama from the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from edgelora.backends.base import Backend
from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora.backends.mlx.open import open_mlx
from edgelora.backends.mlx.options import MlxOptions
from edgelora.backends.registry import spec
from edgelora_converters.lora.adapter import LoraAdapter
from edgelora_converters.mapped import writer as mapped_writer
from edgelora_converters.mlx import writer as mlx_writer
from tests.edgelora.backends.llama_cpp.conftest import EXACT, make_adapters
from tests.support.bases import write_tiny_gguf
from tests.support.fake_backend.backend import FAKE_CAPABILITIES, FakeBackend
from tests.support.lora import GQA
from tests.support.mlx import write_tiny_mlx

SEED = 7
NO_MLX = pytest.mark.skipif(not spec("mlx").available, reason="mlx is not installed")
KINDS = ("llama.cpp", "fake", pytest.param("mlx", marks=[pytest.mark.mlx, NO_MLX]))
LIMITS = {"context_length": 96, "max_sequences": 6, "max_step_tokens": 64, "max_slots": 4, "kv_cells": 512}


@dataclass(frozen=True)
class Kind:
    """How one kind of backend is opened, and what it reads."""

    name: str
    open: Callable[..., Backend]
    """Empty, with changes to LIMITS by name."""
    base: Path
    paths: tuple[Path, ...]
    """Of the four adapters."""

    @property
    def computes(self) -> bool:
        """Whether it is a model, so that logits can be held against the oracle's."""
        return self.name != "fake"


def _open_fake(**limits: Any) -> Backend:
    return FakeBackend(capabilities=replace(FAKE_CAPABILITIES, **{**LIMITS, "max_outputs": 7} | limits))


@pytest.fixture(scope="session")
def adapters() -> tuple[LoraAdapter, ...]:
    return make_adapters()


@pytest.fixture(scope="session", params=KINDS)
def kind(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, adapters: tuple[LoraAdapter, ...]
) -> Kind:
    folder = tmp_path_factory.mktemp(str(request.param).replace(".", "_"))
    if request.param == "fake":
        paths = tuple(folder / f"{n}.gguf" for n in range(len(adapters)))
        for path in paths:
            path.write_bytes(f"adapter {path.name}".encode())
        return Kind("fake", _open_fake, paths[0], paths)
    if request.param == "mlx":
        base, paths = write_tiny_mlx(folder / "base", GQA, seed=SEED), tuple(folder / f"{n}" for n in range(4))
        for adapter, path in zip(adapters, paths, strict=True):
            mlx_writer.write(adapter, GQA, path, provenance={})

        def open_folder(**limits: Any) -> Backend:
            return open_mlx(base, shape=GQA, options=MlxOptions(**{**LIMITS, "max_outputs": 7} | limits))

        return Kind("mlx", open_folder, base, paths)
    base, paths = write_tiny_gguf(folder / "base.gguf", GQA, seed=SEED), tuple(folder / f"{n}.lora" for n in range(4))
    for adapter, path in zip(adapters, paths, strict=True):
        mapped_writer.write(adapter, GQA, path, provenance={})
    return Kind(
        "llama.cpp",
        lambda **limits: LlamaCppBackend.open(base, shape=GQA, settings=replace(EXACT, **limits)),
        base,
        paths,
    )


def attach_all(backend: Backend, kind: Kind) -> Backend:
    for slot, path in enumerate(kind.paths):
        backend.attach(slot, backend.load(path))
    return backend


@pytest.fixture
def backend(kind: Kind) -> Iterator[Backend]:
    """With adapter N in slot N."""
    backend = attach_all(kind.open(), kind)
    yield backend
    backend.close()
