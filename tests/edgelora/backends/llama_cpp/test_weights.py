"""The two ways to hold a base's weights: in the file's own layout, and in llama.cpp's."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora.core.config import Kernel, Weights
from edgelora_converters.gguf import writer as gguf_writer
from edgelora_models.shape import LlamaShape
from tests.edgelora.backends.llama_cpp.conftest import EXACT, KERNELS
from tests.support.bases import MIN_VOCAB, write_tiny_gguf
from tests.support.lora import random_adapter
from tests.support.steps import Lane, distance, generate, once

SHAPE = LlamaShape(layers=2, hidden=256, heads=4, kv_heads=2, head_dim=64, ffn=512, vocab=MIN_VOCAB + 2, tied=False)
"""Wide enough for K-quants, and to be repacked in blocks of eight rows."""
PROMPT = (7, 8, 9)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base in each quantization that is repacked, and two adapters."""
    folder = tmp_path_factory.mktemp("weights")
    for quantization in ("Q4_0", "Q4_K_M"):
        write_tiny_gguf(folder / f"{quantization}.gguf", SHAPE, seed=1, quantization=quantization)
    for number in range(2):
        gguf_writer.write(random_adapter(SHAPE, seed=number), SHAPE, folder / f"adapter-{number}.gguf", provenance={})
    return folder


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> Kernel:
    return cast(Kernel, request.param)


def opened(files: Path, quantization: str, weights: Weights, kernel: Kernel = "auto") -> Iterator[LlamaCppBackend]:
    options = replace(EXACT, weights=weights, kernel=kernel)
    backend = LlamaCppBackend.open(files / f"{quantization}.gguf", shape=SHAPE, settings=options)
    for slot in range(2):
        backend.attach(slot, backend.load(files / f"adapter-{slot}.gguf"))
    yield backend
    backend.close()


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="elsewhere other types are repacked")
@pytest.mark.parametrize("weights", ["mapped", "repacked"])
def test_mapped_weights_are_not_copied(files: Path, weights: Weights, caplog: pytest.LogCaptureFixture) -> None:
    """Mapped, every tensor stays in the file's mapping; repacked, llama.cpp makes a buffer of its own layout."""
    caplog.set_level(logging.DEBUG, logger="edgelora.llama_cpp")
    for _ in opened(files, "Q4_0", weights):
        pass
    assert ("CPU_REPACK model buffer" in caplog.text) == (weights == "repacked")


@pytest.mark.parametrize("weights", ["mapped", "repacked"])
@pytest.mark.parametrize("quantization", ["Q4_0", "Q4_K_M"])
def test_adapters_work_in_both(files: Path, quantization: str, weights: Weights, kernel: Kernel) -> None:
    """The self-test finds every weight, adapters change what comes out, and a mixed batch is each lane alone."""
    for backend in opened(files, quantization, weights, kernel):
        assert backend.capabilities.mixed_adapters
        slots = (1, 0, None)
        alone = [generate(backend, [Lane(5, slot, list(PROMPT))], steps=5)[0] for slot in slots]
        assert generate(backend, [Lane(n, slot, list(PROMPT)) for n, slot in enumerate(slots)], steps=5) == alone
        assert distance(once(backend, PROMPT, 0), once(backend, PROMPT, None)) > 0.02


@pytest.mark.parametrize("quantization", ["Q4_0", "Q4_K_M"])
def test_both_give_the_same_answer(files: Path, quantization: str) -> None:
    """The layout changes the order of sums and no more: they are far closer than the adapter's effect."""
    found = []
    for weights in ("mapped", "repacked"):
        for backend in opened(files, quantization, weights):
            found.append((once(backend, PROMPT, 0), once(backend, PROMPT, None)))
    (mapped, base), (repacked, _) = found
    assert distance(mapped, repacked) < 0.1 * distance(mapped, base)
