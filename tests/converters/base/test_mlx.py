"""Bases for mlx-lm: it loads them, computes what transformers' checkpoint means, and nothing is left of a failure."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgelora_converters.base import mlx as base_mlx
from edgelora_converters.base.convert import TYPES, convert_base
from edgelora_converters.base.verify import BaseVerification
from edgelora_converters.oracle.llama import NumpyLlama
from edgelora_converters.oracle.open import hf_config, load_hf
from edgelora_models import builtin
from edgelora_models.errors import BaseError
from edgelora_models.identity import identify_folder
from edgelora_models.shape import LlamaShape
from tests.support.bases import ROPE_SCALING, tiny_config
from tests.support.checkpoints import VOCAB, left_behind, write_checkpoint
from tests.support.lora import GQA, WIDE_HEADS
from tests.support.oracles import TOKENS, distance

pytestmark = [pytest.mark.mlx, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
mx = pytest.importorskip("mlx.core")
mlx_lm = pytest.importorskip("mlx_lm.utils")

SHAPE = replace(GQA, vocab=VOCAB)
TIED = replace(WIDE_HEADS, hidden=64, vocab=VOCAB)
ROPES: dict[str, dict[str, Any]] = {
    "v4": {},
    "v5": {"rope_theta": None, "rope_scaling": None, "rope_parameters": {**ROPE_SCALING, "rope_theta": 5e5}},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 3.0}},
}


def mlx_logits(folder: Path, tokens: list[int]) -> NDArray[np.float32]:
    """What mlx-lm computes from the folder as it stands."""
    model, _ = mlx_lm.load_model(folder)
    return np.array(model(mx.array([tokens])).astype(mx.float32))[0]


@pytest.mark.parametrize("shape", [SHAPE, TIED], ids=["gqa", "wide-heads-tied"])
@pytest.mark.parametrize("rope", ["v4", "v5"])
def test_mlx_lm_agrees_with_the_oracle(tmp_path: Path, shape: LlamaShape, rope: str) -> None:
    """Logits of the float32 folder within 2e-5, with rope keys of either transformers."""
    folder = write_checkpoint(tmp_path / "base", shape, seed=3, config=ROPES[rope])
    report = convert_base(folder, tmp_path / "out", to="mlx", kind="f32")
    assert report.proof.exact == report.proof.tensors
    assert distance(mlx_logits(tmp_path / "out", TOKENS), load_hf(folder, dtype="float64").logits(TOKENS)) < 2e-5


@pytest.mark.torch
@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.filterwarnings("default")
def test_mlx_lm_agrees_with_transformers(tmp_path: Path, rope: str) -> None:
    """The same against transformers itself, linear scaling too."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folder = write_checkpoint(tmp_path / "base", SHAPE, seed=4, config=ROPES[rope])
    convert_base(folder, tmp_path / "out", to="mlx", kind="f32")
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        wanted = model(torch.tensor([TOKENS])).logits[0].numpy()
    assert distance(mlx_logits(tmp_path / "out", TOKENS), wanted) < 2e-5


@pytest.mark.parametrize("kind", ["8bit", "6bit", "4bit", "3bit"])
def test_quantized(tmp_path: Path, kind: str) -> None:
    """mlx-lm computes what its own dequantized weights say; the distance to the source is measured and reported."""
    folder = write_checkpoint(tmp_path / "base", SHAPE, seed=5)
    report = convert_base(folder, tmp_path / "out", to="mlx", kind=kind)
    weights = dequantized(tmp_path / "out")
    oracle = NumpyLlama(weights, hf_config(tiny_config(SHAPE)), dtype="float64")
    assert distance(mlx_logits(tmp_path / "out", TOKENS), oracle.logits(TOKENS)) < 5e-5
    source = load_hf(folder)._weights
    errors = {n: np.linalg.norm(weights[n] - source[n]) / np.linalg.norm(source[n]) for n in source}
    assert report.proof.worst == pytest.approx(max(errors.values()), rel=1e-3)
    # Rows of 96 are no multiple of a group: those modules stay as they are.
    assert report.proof.kinds == {f"{kind[0]}-bit": 14, "F32": 7}


def dequantized(folder: Path) -> dict[str, NDArray[np.float32]]:
    stored = dict(mx.load(str(folder / "model.safetensors")))
    quantization = json.loads((folder / "config.json").read_text())["quantization"]
    size, bits = quantization["group_size"], quantization["bits"]
    result = {}
    for name, array in stored.items():
        stem = name.removesuffix("weight")
        if name.endswith(".weight"):
            packed = f"{stem}scales" in stored
            parts = (array, stored[f"{stem}scales"], stored[f"{stem}biases"]) if packed else (array,)
            result[name] = np.array(mx.dequantize(*parts, group_size=size, bits=bits) if packed else array)
    return result


@pytest.mark.parametrize("kind", TYPES["mlx"])
def test_the_built_in_base(tmp_path: Path, kind: str) -> None:
    """A bfloat16 checkpoint in every type: loads, is known as the same base, and leaves nothing besides."""
    report = convert_base(builtin.base_hf(), tmp_path / "out", to="mlx", kind=kind)
    assert np.isfinite(mlx_logits(tmp_path / "out", TOKENS)).all()
    identity = identify_folder(tmp_path / "out")
    assert identity.fingerprint == identify_folder(builtin.base_hf()).fingerprint
    assert (report.proof.exact == report.proof.tensors) is (kind in ("f32", "bf16"))
    assert left_behind(tmp_path) == ["out"]
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= set(
        left_behind(tmp_path / "out")
    )


def test_the_configuration(tmp_path: Path) -> None:
    """The older rope keys are written, nothing is left to mlx-lm's defaults, and the source is named by its digest."""
    folder = write_checkpoint(tmp_path / "base", SHAPE, config={**ROPES["v5"], "tie_word_embeddings": None})
    report = convert_base(folder, tmp_path / "out", to="mlx", kind="4bit")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["rope_theta"] == 5e5 and config["rope_scaling"]["rope_type"] == "llama3"
    assert config["tie_word_embeddings"] is False
    assert config["edgelora"]["source_digest"] == report.source_digest
    assert config["quantization"]["bits"] == 4


def test_the_digest_is_that_of_a_gguf(tmp_path: Path) -> None:
    """What a base was made of is told alike by both formats."""
    folder = write_checkpoint(tmp_path / "base", SHAPE)
    one = convert_base(folder, tmp_path / "out", to="mlx", kind="4bit")
    assert one.source_digest == convert_base(folder, tmp_path / "out.gguf", to="gguf", kind="f16").source_digest


def test_shards_are_the_same_bytes(tmp_path: Path) -> None:
    """One file or three shards: the same folder."""
    for shards in (1, 3):
        convert_base(
            write_checkpoint(tmp_path / f"base{shards}", SHAPE, shards=shards), tmp_path / f"out{shards}", to="mlx"
        )
    names = left_behind(tmp_path / "out1")
    assert names == left_behind(tmp_path / "out3")
    for name in names:
        assert (tmp_path / "out1" / name).read_bytes() == (tmp_path / "out3" / name).read_bytes(), name


@pytest.mark.parametrize("stage", ["Converting with mlx-lm", "Checking"])
def test_nothing_is_left_of_an_interrupted_conversion(tmp_path: Path, stage: str) -> None:
    """Ctrl-C leaves neither the folder nor a temporary one."""
    folder = write_checkpoint(tmp_path / "base", SHAPE)

    def interrupt(label: str, done: int, total: int) -> None:
        if label == stage and done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_base(folder, tmp_path / "out", to="mlx", progress=interrupt)
    assert left_behind(tmp_path) == ["base"]


def test_a_wrong_weight_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What mlx-lm wrote is compared with the source, not believed."""
    folder = write_checkpoint(tmp_path / "base", SHAPE)
    real = base_mlx._verify

    def verify(mx: Any, out: Path, *rest: Any) -> tuple[BaseVerification, str]:
        stored = dict(mx.load(str(out / "model.safetensors")))
        stored["model.norm.weight"] = stored["model.norm.weight"] * 1.001
        mx.save_safetensors(str(out / "model.safetensors"), stored)
        return real(mx, out, *rest)

    monkeypatch.setattr(base_mlx, "_verify", verify)
    with pytest.raises(BaseError, match=r"model\.norm") as caught:
        convert_base(folder, tmp_path / "out", to="mlx", kind="8bit")
    assert caught.value.code == "base_conversion_failed"
    assert left_behind(tmp_path) == ["base"]
