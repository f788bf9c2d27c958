"""aLoRA as PEFT computes it: the oracle and llama.cpp with the gate, logits and answers. Needs torch and PEFT."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgelora.backends.base import Applied
from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora.core.request import AdapterRef, AdapterUse
from edgelora.runtime.alora import activated
from edgelora_converters.convert.convert import convert
from edgelora_converters.oracle.llama import Part
from edgelora_converters.peft import reader as peft_reader
from edgelora_models.fingerprint import BaseFingerprint
from tests.edgelora.backends.llama_cpp.conftest import EXACT, KERNELS
from tests.support.adapters import ALL_MODULES
from tests.support.bases import write_tiny_gguf
from tests.support.lora import GQA
from tests.support.oracles import deltas, distance, tiny_oracle
from tests.support.peft_oracle import SEED, peft_answer, peft_logits, peft_model
from tests.support.steps import Lane, advance, generate

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # PEFT's, of the generation
]

LIMIT = 5e-5
INVOCATION = (70, 71, 72)
CONFIG = {
    "r": 8,
    "lora_alpha": 16,
    "use_rslora": True,
    "target_modules": list(ALL_MODULES),
    "alora_invocation_tokens": list(INVOCATION),
}
PROMPTS = {
    "once": [5, 9, 200, *INVOCATION, 31, 7],
    "at the end": [5, 9, 200, 31, *INVOCATION],
    "at the beginning": [*INVOCATION, 5, 9, 200, 31],
    "twice": [5, *INVOCATION, 200, 31, 8, *INVOCATION, 90],
    "overlapping a half": [5, 70, 71, *INVOCATION, 90],
    "half at the end": [5, *INVOCATION, 200, 70, 71],
    "absent": [5, 9, 200, 70, 71, 31],
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_peft_is_the_oracle_is_the_hook(tmp_path: Path, kernel: str) -> None:
    """Wherever the invocation stands: PEFT's logits after every token, and its greedy answer, from its own folder."""
    model = peft_model(GQA, CONFIG, tmp_path / "peft")
    adapter = peft_reader.read(tmp_path / "peft", GQA)
    assert adapter.invocation == INVOCATION
    base = BaseFingerprint("llama", GQA, vocabulary="", template="")
    convert(tmp_path / "peft", tmp_path / "a.lora", to="mapped", base=base)
    ref = AdapterRef("a", "v", tmp_path / "a.lora", 1, adapter.invocation)
    write_tiny_gguf(tmp_path / "base.gguf", GQA, seed=SEED)
    options = replace(EXACT, kernel=kernel, max_outputs=24)
    backend = LlamaCppBackend.open(tmp_path / "base.gguf", shape=GQA, settings=options)
    backend.attach(0, backend.load(ref.path))
    oracle = tiny_oracle(GQA, seed=SEED)
    for prompt in PROMPTS.values():
        wanted = peft_logits(model, prompt)
        uses = activated([AdapterUse(ref)], prompt)
        parts = [Part(deltas(adapter), use.weight, use.start) for use in uses]
        assert distance(oracle.logits(prompt, parts), wanted) < LIMIT
        acting = tuple(Applied(0, use.weight, use.start) for use in uses)
        lane = Lane(0, None, list(prompt), acting)
        advance(backend, [(lane, lane.chunk(64, logits=len(prompt)))])
        assert len(lane.history) == len(prompt)
        assert all(distance(*pair) < LIMIT for pair in zip(lane.history, wanted, strict=True))
        backend.clear(0)
        answer = generate(backend, [Lane(0, None, list(prompt), acting)], steps=8, chunk=3)[0]
        assert answer == peft_answer(model, prompt, count=8)
    backend.close()


def test_the_gate_matters(tmp_path: Path) -> None:
    """Applied to every token, or begun one token off, the logits are far from PEFT's: the test above can fail."""
    model = peft_model(GQA, CONFIG, tmp_path / "peft")
    adapter, oracle = peft_reader.read(tmp_path / "peft", GQA), tiny_oracle(GQA, seed=SEED)
    prompt = PROMPTS["twice"]
    wanted = peft_logits(model, prompt)
    for start in (0, 1, 6, 8):
        assert distance(oracle.logits(prompt, [Part(deltas(adapter), start=start)]), wanted) > 0.01
    assert distance(oracle.logits(prompt, [Part(deltas(adapter), start=7)]), wanted) < LIMIT
