"""DoRA, lora_bias, embedding, head and trained tokens from real PEFT to real llama.cpp. Needs torch and PEFT."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgelora.backends.base import Applied, Chunk
from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora_converters.convert.convert import convert
from edgelora_converters.lora.completion import complete
from edgelora_converters.peft import reader as peft_reader
from edgelora_models.fingerprint import BaseFingerprint
from edgelora_models.shape import LlamaShape
from tests.edgelora.backends.llama_cpp.conftest import EXACT, KERNELS
from tests.support.adapters import ALL_MODULES
from tests.support.bases import write_tiny_gguf
from tests.support.lora import GQA, WIDE_HEADS
from tests.support.oracles import TOKENS, deltas, distance, tiny_oracle, write_tiny_hf
from tests.support.peft_oracle import SEED, moved_peft_model, peft_logits

# PEFT and transformers deprecate each other's calls; that is theirs to settle.
pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

LIMIT = 5e-5
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
CONFIGS: dict[str, dict[str, Any]] = {
    "dora": {"r": 8, "lora_alpha": 16, "use_dora": True, "target_modules": list(ALL_MODULES)},
    "dora, rslora, patterns": {
        "r": 4,
        "lora_alpha": 8,
        "use_dora": True,
        "use_rslora": True,
        "target_modules": [*ATTENTION, "down_proj"],
        "rank_pattern": {"q_proj": 8},
        "alpha_pattern": {"v_proj": 3},
    },
    "lora_bias": {"r": 4, "lora_alpha": 12, "lora_bias": True, "target_modules": list(ALL_MODULES)},
    "embedding and head": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "tokens": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ATTENTION,
        "trainable_token_indices": sorted(set(TOKENS))[:5],
    },
}
CASES = [(GQA, name) for name in CONFIGS] + [(WIDE_HEADS, name) for name in ("dora", "lora_bias", "tokens")]


@pytest.mark.parametrize(("shape", "name"), CASES, ids=[f"{'tied' if s.tied else 'untied'}-{n}" for s, n in CASES])
def test_peft_is_the_oracle_is_the_runtime(tmp_path: Path, shape: LlamaShape, name: str) -> None:
    """PEFT in float32, the oracle on the adapter as read and completed, and the backend with each kernel on the
    converted file give the same logits; the base gives others."""
    wanted = peft_logits(moved_peft_model(shape, CONFIGS[name], tmp_path / "peft"))
    base = write_tiny_gguf(tmp_path / "base.gguf", shape, seed=SEED)
    oracle = tiny_oracle(shape, seed=SEED)
    adapter = complete(peft_reader.read(tmp_path / "peft", shape), base, to="mapped")
    assert distance(oracle.logits(TOKENS, deltas(adapter)), wanted) < LIMIT
    assert distance(oracle.logits(TOKENS), wanted) > 0.01

    fingerprint = BaseFingerprint("llama", shape, vocabulary="", template="")
    convert(tmp_path / "peft", tmp_path / "a.lora", to="mapped", base=fingerprint, base_path=base)
    for kernel in ("numpy", *(["native"] if len(KERNELS) > 1 else [])):
        assert distance(run(base, shape, tmp_path / "a.lora", kernel=kernel), wanted) < LIMIT


def run(base: Path, shape: LlamaShape, path: Path, *, kernel: Any) -> NDArray[np.float32]:
    """Logits after every one of TOKENS, with the adapter in `path`."""
    settings = replace(EXACT, kernel=kernel, max_outputs=len(TOKENS))
    backend = LlamaCppBackend.open(base, shape=shape, settings=settings)
    try:
        backend.attach(0, backend.load(path))
        (found,) = backend.step([Chunk(0, 0, tuple(TOKENS), (Applied(0),), len(TOKENS))])
    finally:
        backend.close()
    assert found is not None
    return found


@pytest.mark.mlx
@pytest.mark.parametrize("name", ["dora", "dora, rslora, patterns", "embedding and head", "tokens"])
def test_peft_is_mlx(tmp_path: Path, name: str) -> None:
    """The same adapters converted for mlx-lm and run by it."""
    utils = pytest.importorskip("mlx_lm.utils")
    from mlx import core
    from mlx_lm.tuner.utils import load_adapters

    wanted = peft_logits(moved_peft_model(GQA, CONFIGS[name], tmp_path / "peft"))
    base = write_tiny_hf(tmp_path / "base", GQA, seed=SEED)
    fingerprint = BaseFingerprint("llama", GQA, vocabulary="", template="")
    convert(tmp_path / "peft", tmp_path / "mlx", to="mlx", base=fingerprint, base_path=base)
    model, _ = utils.load_model(base)
    load_adapters(model, str(tmp_path / "mlx"))
    assert distance(np.array(model(core.array([TOKENS]))[0]), wanted) < LIMIT
