"""A tiny base, four adapters of different rank and reach, and a backend with the four attached."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from edgelora.backends.kernels import native
from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora.backends.llama_cpp.options import BackendOptions
from edgelora_converters.gguf import writer as gguf_writer
from edgelora_converters.lora.adapter import LoraAdapter, Target
from edgelora_converters.mapped import writer as mapped_writer
from edgelora_models.modules import BY_GGUF
from tests.support.bases import write_tiny_gguf
from tests.support.lora import GQA, random_adapter

EXACT = BackendOptions(
    context_length=96, max_sequences=6, max_step_tokens=64, max_slots=4, kv_cells=512, kv_type="f32", threads=1
)
"""f32 KV and one thread: only rounding is left between two ways to compute the same."""

KERNELS = (
    "numpy",
    pytest.param(
        "native", marks=pytest.mark.skipif(native.library() is None, reason="the native kernel was not built")
    ),
)


@dataclass(frozen=True)
class Installed:
    base: Path
    adapters: tuple[LoraAdapter, ...]
    paths: tuple[Path, ...]
    """As GGUF."""
    mapped: tuple[Path, ...]
    """The same in edgelora's own layout."""


def make_adapters() -> tuple[LoraAdapter, ...]:
    """Every module at rank 4; mixed ranks and scales; q and v alone; the last layer's tail alone."""
    attention = [Target(layer, BY_GGUF[name]) for layer in range(GQA.layers) for name in ("attn_q", "attn_v")]
    tail = [Target(GQA.layers - 1, BY_GGUF[name]) for name in ("ffn_gate", "ffn_down")]
    return (
        random_adapter(GQA, seed=1),
        random_adapter(GQA, seed=2, ranks=(1, 8, 16), scales=(0.5, 3.0)),
        random_adapter(GQA, seed=3, ranks=(2,), scales=(6.0,), targets=attention),
        random_adapter(GQA, seed=4, ranks=(5,), scales=(6.0,), targets=tail),
    )


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("tiny")
    adapters = make_adapters()
    paths = tuple(folder / f"adapter-{n}.gguf" for n in range(len(adapters)))
    for adapter, path in zip(adapters, paths, strict=True):
        gguf_writer.write(adapter, GQA, path, provenance={})
        mapped_writer.write(adapter, GQA, path.with_suffix(mapped_writer.SUFFIX), provenance={})
    own = tuple(path.with_suffix(mapped_writer.SUFFIX) for path in paths)
    return Installed(write_tiny_gguf(folder / "base.gguf", GQA, seed=7), adapters, paths, own)


def open_backend(installed: Installed, options: BackendOptions = EXACT) -> LlamaCppBackend:
    return LlamaCppBackend.open(installed.base, shape=GQA, settings=options)


@pytest.fixture(params=KERNELS)
def options(request: pytest.FixtureRequest) -> BackendOptions:
    """EXACT, once with each kernel."""
    return replace(EXACT, kernel=request.param)


@pytest.fixture
def backend(installed: Installed, options: BackendOptions) -> Iterator[LlamaCppBackend]:
    """The hook, with adapter N in slot N; each test runs with both kernels."""
    yield from attached(installed, options)


@pytest.fixture
def numpy_backend(installed: Installed) -> Iterator[LlamaCppBackend]:
    yield from attached(installed, replace(EXACT, kernel="numpy"))


@pytest.fixture
def native_backend(installed: Installed) -> Iterator[LlamaCppBackend]:
    if native.library() is None:
        pytest.skip("the native kernel was not built")
    yield from attached(installed, replace(EXACT, kernel="native"))


def attached(installed: Installed, options: BackendOptions) -> Iterator[LlamaCppBackend]:
    backend = open_backend(installed, options)
    wanted = backend.capabilities.adapter_format
    for slot, path in enumerate(installed.mapped if wanted == "mapped" else installed.paths):
        backend.attach(slot, backend.load(path))
    yield backend
    backend.close()
