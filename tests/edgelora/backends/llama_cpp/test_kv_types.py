"""KV types: their sizes, which base can have which, and that each one works."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from edgelora.backends.llama_cpp import backend as backend_module
from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora.backends.llama_cpp.kv_types import token_bytes
from edgelora.core.config import KvType
from edgelora.core.errors import EdgeloraError, UsageError
from edgelora_models.shape import LlamaShape
from tests.edgelora.backends.llama_cpp.conftest import EXACT, Installed, open_backend
from tests.support.bases import MIN_VOCAB, write_tiny_gguf
from tests.support.steps import Lane, distance, generate, once

KV_TYPES: tuple[KvType, ...] = get_args(KvType)
SHAPE = LlamaShape(layers=2, hidden=64, heads=2, kv_heads=2, head_dim=32, ffn=96, vocab=MIN_VOCAB, tied=False)
"""A head is one block of the quantized types."""
EIGHT_B = LlamaShape(layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128, ffn=14336, vocab=128256, tied=False)


def test_sizes() -> None:
    """Llama-3.1-8B keeps 1,024 keys and as many values in each of 32 layers: 128 KiB in f16."""
    assert {kind: token_bytes(kind, EIGHT_B) for kind in KV_TYPES} == {
        "f16": 131_072,
        "f32": 262_144,
        "q8_0": 69_632,
        "q4_0": 36_864,
    }


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_sizes_are_the_librarys(tmp_path: Path, kv_type: KvType, caplog: pytest.LogCaptureFixture) -> None:
    """What llama.cpp says it allocates is what is told."""
    caplog.set_level("DEBUG", logger="edgelora.llama_cpp")
    options = replace(EXACT, kv_type=kv_type, kv_cells=16384)
    LlamaCppBackend.open(write_tiny_gguf(tmp_path / "base.gguf", SHAPE, seed=1), shape=SHAPE, settings=options).close()
    mib = 16384 * token_bytes(kv_type, SHAPE) / (1 << 20)
    assert f"KV buffer size = {mib:8.2f} MiB" in caplog.text


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_every_type_computes(tmp_path: Path, kv_type: KvType) -> None:
    """Prompts, single tokens, copies and cuts: close to f32, and a mixed batch is each sequence alone."""
    base = write_tiny_gguf(tmp_path / "base.gguf", SHAPE, seed=1)
    exact = LlamaCppBackend.open(base, shape=SHAPE, settings=EXACT)
    backend = LlamaCppBackend.open(base, shape=SHAPE, settings=replace(EXACT, kv_type=kv_type))
    prompt = list(range(40, 60))
    bound = {"f32": 0.0, "f16": 0.01, "q8_0": 0.05, "q4_0": 0.5}[kv_type]
    assert distance(once(backend, prompt, None), once(exact, prompt, None)) <= bound
    alone = [generate(backend, [Lane(5, None, prompt[n:])], steps=4)[0] for n in range(3)]
    assert generate(backend, [Lane(n, None, prompt[n:]) for n in range(3)], steps=4) == alone
    backend.close()
    exact.close()


def test_a_type_the_base_cannot_have(installed: Installed) -> None:
    """Heads of 16 numbers fit no block of 32: refused before the base is loaded, with what to do."""
    with pytest.raises(UsageError, match=r"packs 32 numbers together, and a head of this base has 16.*f16") as caught:
        open_backend(installed, replace(EXACT, kv_type="q8_0"))
    assert caught.value.code == "kv_type_unsupported"


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_llama_cpp_thinks_the_same(installed: Installed, kv_type: KvType, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused here llama.cpp would refuse too, and nothing else is refused here."""

    def refused() -> bool:
        try:
            open_backend(installed, replace(EXACT, kv_type=kv_type)).close()
        except EdgeloraError:
            return True
        return False

    ours = refused()
    monkeypatch.setattr(backend_module, "check_kv_type", lambda *_: None)
    assert refused() == ours
