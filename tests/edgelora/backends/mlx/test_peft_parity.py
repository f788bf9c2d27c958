"""From real PEFT to the MLX backend: every part of an adapter, as the store converts it. Needs torch and PEFT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("mlx")

from edgelora.backends.base import Applied, Chunk
from edgelora.core.request import AdapterRef, AdapterUse
from edgelora.runtime.alora import activated
from edgelora.store.adapters.conversions import MAIN, ConversionTarget, make
from edgelora_converters.convert.source import read_source
from edgelora_models.fingerprint import BaseFingerprint
from edgelora_models.shape import LlamaShape
from tests.edgelora.backends.llama_cpp import test_alora_parity as alora
from tests.edgelora.backends.llama_cpp.test_parts_parity import CONFIGS
from tests.edgelora.backends.mlx.conftest import opened
from tests.support.adapters import ALL_MODULES
from tests.support.lora import GQA, WIDE_HEADS
from tests.support.mlx import write_tiny_mlx
from tests.support.oracles import TOKENS, distance
from tests.support.peft_oracle import SEED, moved_peft_model, peft_answer, peft_logits, peft_model, torch_base
from tests.support.steps import Lane, advance, generate

# PEFT and transformers deprecate each other's calls; that is theirs to settle.
pytestmark = [
    pytest.mark.torch,
    pytest.mark.mlx,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

LIMIT = 5e-5
PLAIN = {
    "plain": {"r": 8, "lora_alpha": 16, "target_modules": list(ALL_MODULES)},
    "rslora, patterns": {
        "r": 4,
        "lora_alpha": 6,
        "use_rslora": True,
        "target_modules": list(ALL_MODULES),
        "rank_pattern": {"q_proj": 16, "down_proj": 1},
        "alpha_pattern": {"v_proj": 3},
    },
}
EVERY = PLAIN | CONFIGS
UNTIED_ALONE = {"embedding and head"}
"""PEFT ties what it adds to a tied base."""
CASES = [(GQA, name) for name in EVERY] + [(WIDE_HEADS, name) for name in EVERY if name not in UNTIED_ALONE]


def converted(source: Path, base: Path, shape: LlamaShape, out: Path) -> Path:
    """As the store converts for an MLX base."""
    fingerprint = BaseFingerprint("llama", shape, vocabulary="", template="")
    adapter = read_source(source, shape)
    conversion = make(adapter, out, goal=ConversionTarget("mlx", fingerprint, base), progress=None)
    return out / MAIN[conversion.format]


@pytest.mark.parametrize(("shape", "name"), CASES, ids=[f"{'tied' if s.tied else 'untied'}-{n}" for s, n in CASES])
def test_peft_is_the_runtime(tmp_path: Path, shape: LlamaShape, name: str) -> None:
    """In float32, after every token: PEFT's logits to 5e-5 of the largest; the base gives others."""
    wanted = peft_logits(moved_peft_model(shape, EVERY[name], tmp_path / "peft"))
    base = write_tiny_mlx(tmp_path / "base", shape, seed=SEED)
    path = converted(tmp_path / "peft", base, shape, tmp_path / "conversion")
    with opened(base, shape) as backend:
        backend.attach(0, backend.load(path))

        def logits(*uses: Applied) -> NDArray[np.float32]:
            (found,) = backend.step([Chunk(0, 0, tuple(TOKENS), uses, len(TOKENS))])
            backend.clear(0)
            assert found is not None
            return found

        assert distance(logits(Applied(0)), wanted) < LIMIT
        assert distance(logits(), wanted) > 0.01
        assert distance(logits(), peft_logits(torch_base(shape))) < LIMIT


def test_alora_is_pefts(tmp_path: Path) -> None:
    """Wherever the invocation stands: PEFT's logits after every token, and its greedy answer."""
    model = peft_model(GQA, alora.CONFIG, tmp_path / "peft")
    base = write_tiny_mlx(tmp_path / "base", GQA, seed=SEED)
    path = converted(tmp_path / "peft", base, GQA, tmp_path / "conversion")
    ref = AdapterRef("a", "v", path, 1, alora.INVOCATION)
    with opened(base) as backend:
        backend.attach(0, backend.load(path))
        for prompt in alora.PROMPTS.values():
            uses = tuple(Applied(0, use.weight, use.start) for use in activated([AdapterUse(ref)], prompt))
            lane = Lane(0, None, list(prompt), uses)
            advance(backend, [(lane, lane.chunk(64, logits=len(prompt)))])
            backend.clear(0)
            assert all(distance(*pair) < LIMIT for pair in zip(lane.history, peft_logits(model, prompt), strict=True))
            answer = generate(backend, [Lane(0, None, list(prompt), uses)], steps=8, chunk=3)[0]
            assert answer == peft_answer(model, prompt, count=8)
