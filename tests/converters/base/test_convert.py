"""Converting a base: every type loads and says nearly the same, whole and proven or not at all."""

from __future__ import annotations

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgelora_converters.base.convert import DEFAULT_TYPES, TYPES, convert_base
from edgelora_converters.base.gguf import DIGEST_KEY
from edgelora_models import builtin
from edgelora_models.errors import BaseError, StorageError, UsageError
from edgelora_models.gguf_header import read_header
from edgelora_models.identity import identify_folder, identify_gguf
from tests.support.checkpoints import VOCAB, edit, left_behind, write_checkpoint
from tests.support.lora import GQA
from tests.support.native import native_logits, native_model

SHAPE = replace(GQA, vocab=VOCAB)
# Largest mean KL to the unrounded base on a chat it knows: about three times what was measured.
KL = {
    "f32": 1e-12,
    "f16": 1e-7,
    "bf16": 6e-6,
    "q8_0": 2e-4,
    "q4_0": 1e-2,
    "q6_k": 1.5e-3,
    "q5_k_m": 2.5e-3,
    "q4_k_m": 4e-3,
    "q3_k_m": 1e-2,
    "q2_k": 6e-2,
}
CHAT = (
    "<|start_header_id|>user<|end_header_id|>\n\nWhat is the capital of France?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nThe capital of France is Paris.<|eot_id|>"
)
TOKENS = Tokenizer.from_file(str(builtin.base_hf() / "tokenizer.json")).encode(CHAT).ids
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.float32]:
    """The unrounded built-in base's logits."""
    path = tmp_path_factory.mktemp("f32") / "base.gguf"
    convert_base(builtin.base_hf(), path, to="gguf", kind="f32")
    with native_model(path) as model:
        return native_logits(model, TOKENS)


def divergence(wanted: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Mean KL over positions, in nats."""

    def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
        shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))

    p, q = log_softmax(wanted), log_softmax(found)
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())


@pytest.mark.parametrize("kind", TYPES["gguf"])
def test_every_type_loads(tmp_path: Path, wanted: NDArray[np.float32], kind: str) -> None:
    """llama.cpp loads every type, its answers are near the unrounded base's, and the base is known as the same."""
    out = tmp_path / "base.gguf"
    report = convert_base(builtin.base_hf(), out, to="gguf", kind=kind, threads=1)
    with native_model(out) as model:
        found = native_logits(model, TOKENS)
    assert divergence(wanted, found) < KL[kind]
    identity = identify_gguf(out)
    assert identity.fingerprint == identify_folder(builtin.base_hf()).fingerprint
    assert identity.quantization == kind.upper()
    assert (report.nbytes, report.type, report.parameters) == (out.stat().st_size, kind, 4_590_848)
    assert left_behind(tmp_path) == ["base.gguf"]


def test_the_report(tmp_path: Path) -> None:
    """Exact tensors are counted, distances measured, and the types told."""
    exact = convert_base(builtin.base_hf(), tmp_path / "a", to="gguf", kind="bf16").proof
    assert (exact.tensors, exact.exact, exact.overall, exact.worst) == (57, 57, 0.0, 0.0)
    coarse = convert_base(builtin.base_hf(), tmp_path / "b", to="gguf", kind="q8_0").proof
    assert (coarse.exact, coarse.kinds) == (13, {"F32": 13, "Q8_0": 44})
    assert 0.004 < coarse.overall <= coarse.worst < 0.01
    assert coarse.worst_tensor.startswith(("model.", "lm_head"))


def test_provenance(tmp_path: Path) -> None:
    """The file says what it was made of, by whom, in which version."""
    report = convert_base(builtin.base_hf(), tmp_path / "base.gguf", to="gguf", kind="q4_k_m", threads=1)
    metadata = read_header(tmp_path / "base.gguf").metadata
    assert metadata[DIGEST_KEY] == report.source_digest != "0" * 64
    assert (metadata["edgelora.base_converter_version"], metadata["edgelora.type"]) == ("1", "q4_k_m")


@pytest.mark.parametrize("kind", ["f32", "q8_0", "q4_k_m"])
def test_shards_are_the_same_bytes(tmp_path: Path, kind: str) -> None:
    """One file or three shards, once or twice: the same bytes and the same digest."""
    for shards in (1, 3):
        write_checkpoint(tmp_path / f"base{shards}", SHAPE, shards=shards)
    reports = [
        convert_base(tmp_path / f"base{shards}", tmp_path / f"{n}.gguf", to="gguf", kind=kind, threads=threads)
        for n, (shards, threads) in enumerate(((1, 1), (3, 2), (1, 2)))
    ]
    assert len({(tmp_path / f"{n}.gguf").read_bytes() for n in range(3)}) == 1
    assert len({report.source_digest for report in reports}) == 1


def test_the_digest_is_of_the_weights(tmp_path: Path) -> None:
    """Other weights, or the same stored otherwise, have another digest; the type converted to does not matter."""
    for name, seed, dtype in (("a", 0, "F32"), ("b", 1, "F32"), ("c", 0, "BF16")):
        write_checkpoint(tmp_path / name, SHAPE, seed=seed, dtype=dtype)
    digests = [
        convert_base(tmp_path / name, tmp_path / f"{name}.{kind}", to="gguf", kind=kind).source_digest
        for name, kind in (("a", "f32"), ("a", "q8_0"), ("b", "f32"), ("c", "f32"))
    ]
    assert digests[0] == digests[1] and len(set(digests)) == 3


def test_default_types(tmp_path: Path) -> None:
    """Without a type GGUF bases are Q4_K_M."""
    assert set(DEFAULT_TYPES) == set(TYPES) and all(DEFAULT_TYPES[to] in TYPES[to] for to in TYPES)
    assert convert_base(builtin.base_hf(), tmp_path / "base.gguf", to="gguf", threads=1).type == "q4_k_m"


@pytest.mark.parametrize("kind", ["q8_0", "q4_k_m"])
def test_progress(tmp_path: Path, kind: str) -> None:
    """Every stage is told from its beginning to its end."""
    told: dict[str, list[tuple[int, int]]] = {}
    convert_base(
        builtin.base_hf(), tmp_path / "base.gguf", to="gguf", kind=kind, threads=1,
        progress=lambda label, done, total: told.setdefault(label, []).append((done, total)),
    )  # fmt: skip
    stages = ["Preparing weights", "Quantizing", "Checking"] if kind == "q4_k_m" else ["Writing weights", "Checking"]
    assert list(told) == stages
    for steps in told.values():
        assert steps == sorted(steps) and steps[-1][0] == steps[-1][1]


@pytest.mark.parametrize(
    ("kind", "stage"),
    [
        *(("q8_0", stage) for stage in ("Writing weights", "Checking")),
        *(("q4_k_m", stage) for stage in ("Preparing weights", "Quantizing", "Checking")),
    ],
)
def test_nothing_is_left_of_an_interrupted_conversion(tmp_path: Path, kind: str, stage: str) -> None:
    """Ctrl-C in any stage leaves neither the file nor a temporary one."""
    seen = []

    def interrupt(label: str, done: int, total: int) -> None:
        seen.append(label)
        if label == stage and done > total // 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_base(builtin.base_hf(), tmp_path / "base.gguf", to="gguf", kind=kind, threads=1, progress=interrupt)
    assert seen[-1] == stage
    assert left_behind(tmp_path) == []


def test_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No space, an OUT that exists and an unknown type are told at once."""
    folder = write_checkpoint(tmp_path / "base", SHAPE)
    out = tmp_path / "base.gguf"
    with pytest.raises(UsageError) as usage:
        convert_base(folder, out, to="mlx", kind="q4_k_m")
    assert usage.value.code == "base_type"
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: Usage(1, 1, 1 << 20))
        for kind in ("f32", "q4_k_m"):
            with pytest.raises(StorageError) as storage:
                convert_base(folder, out, to="gguf", kind=kind)
            assert storage.value.code == "no_space"
    out.write_text("precious")
    with pytest.raises(UsageError) as usage:
        convert_base(folder, out, to="gguf", kind="f32")
    assert (usage.value.code, out.read_text()) == ("exists", "precious")
    assert left_behind(tmp_path) == ["base", "base.gguf"]
    with pytest.raises(StorageError):
        convert_base(folder, tmp_path / "nowhere" / "base.gguf", to="gguf", kind="f32")


def test_nothing_is_left_of_a_refused_conversion(tmp_path: Path) -> None:
    """A checkpoint that cannot be expressed, whatever is wrong with it, leaves nothing."""
    for name, file, changes, code in (
        ("a", "config.json", {"sliding_window": 64}, "base_unsupported"),
        ("b", "config.json", {"rope_scaling": {"type": "yarn"}}, "base_rope"),
        ("c", "tokenizer.json", {"normalizer": {"type": "NFC"}}, "base_tokenizer"),
        ("d", "config.json", {"num_hidden_layers": 3}, "base_weights"),
    ):
        folder = write_checkpoint(tmp_path / name, SHAPE)
        edit(folder / file, **changes)
        for kind in ("f32", "q4_k_m"):
            with pytest.raises(BaseError) as caught:
                convert_base(folder, tmp_path / "base.gguf", to="gguf", kind=kind)
            assert caught.value.code == code
    assert left_behind(tmp_path) == ["a", "b", "c", "d"]
