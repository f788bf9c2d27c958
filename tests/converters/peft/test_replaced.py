"""replaced: tensors of the base in an adapter's file are dropped where they are the base's own, and only there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelora_converters.peft import reader as peft_reader
from edgelora_converters.peft.read_options import ReadOptions
from edgelora_models.errors import AdapterUnsupported
from tests.support.adapters import TINY, decode, encode, peft_config, peft_tensors, write_raw
from tests.support.bases import tiny_weights
from tests.support.weights import ArrayWeights, tiny_base

PREFIX = "base_model.model."
EMBED, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
COPY = {"model.embed_tokens.base_layer.weight": EMBED, NORM: NORM, "lm_head.modules_to_save.default.weight": HEAD}
"""Names in the file, and whose they are."""


def folder(path: Path, copies: dict[str, Any], *, dtype: str = "F32") -> Path:
    """Plain factors and these copies, stored as `dtype`."""
    (path / "adapter_config.json").write_text(json.dumps(peft_config(rank=4, alpha=8, targets=["q_proj"])))
    tensors = peft_tensors(TINY, rank=4, targets=["q_proj"]) | {PREFIX + n: v for n, v in copies.items()}
    header: dict[str, Any] = {}
    blobs: list[bytes] = []
    for name, values in tensors.items():
        kind = dtype if name.removeprefix(PREFIX) in copies else "F32"
        blobs.append(encode(values, kind))
        end = sum(map(len, blobs))
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [end - len(blobs[-1]), end]}
    write_raw(path / "adapter_model.safetensors", json.dumps(header).encode(), b"".join(blobs))
    return path


def read(path: Path, weights: ArrayWeights | None) -> str:
    return peft_reader.read(path, TINY, reading=ReadOptions(weights=weights)).metadata.get("treatment", "")


def refusal(path: Path, weights: ArrayWeights | None) -> AdapterUnsupported:
    with pytest.raises(AdapterUnsupported) as caught:
        read(path, weights)
    return caught.value


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_copies_of_the_base_are_dropped(tmp_path: Path, dtype: str) -> None:
    """Embedding, norm and head, in whatever 16 bits the base was trained in; each is named in the report."""
    own = tiny_weights(TINY, seed=1)
    treatment = read(
        folder(tmp_path, {name: own[of] for name, of in COPY.items()}, dtype=dtype), tiny_base(TINY, seed=1)
    )
    assert all(name in treatment for name in COPY)


def test_a_base_in_16_bits_is_compared_as_it_is(tmp_path: Path) -> None:
    """A copy in float32 of a bfloat16 base is equal by value."""
    own = {name: decode(values, "BF16") for name, values in tiny_weights(TINY, seed=1).items()}
    copies = {name: own[of] for name, of in COPY.items()}
    assert read(folder(tmp_path, copies), ArrayWeights(TINY, own))


@pytest.mark.parametrize("name", COPY)
def test_one_changed_value_is_enough(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last element of the last block counts."""
    monkeypatch.setattr("edgelora_converters.peft.replaced.BLOCK_BYTES", 4 * 64 * 100)
    copies = {name: own.copy() for name, own in ((n, tiny_weights(TINY, seed=1)[of]) for n, of in COPY.items())}
    copies[name].reshape(-1)[-1] += 1e-3
    error = refusal(folder(tmp_path, copies), tiny_base(TINY, seed=1))
    assert error.code == ("adapter_base_copy" if "base_layer" in name else "adapter_replaces_module")
    assert name in error.what and "differs from the base" in error.what and "erge" in error.remedy


def test_an_enlarged_vocabulary_is_another_matrix(tmp_path: Path) -> None:
    """New tokens add rows: the shapes are in the message."""
    grown = np.vstack([tiny_weights(TINY, seed=1)[EMBED], np.ones((8, 64), np.float32)])
    error = refusal(folder(tmp_path, {"model.embed_tokens.base_layer.weight": grown}), tiny_base(TINY, seed=1))
    assert "[264, 64] where the base has [256, 64]" in error.what


def test_without_the_base_nothing_is_dropped(tmp_path: Path) -> None:
    """A file cannot show that a matrix is untouched: the remedy says what to give."""
    own = tiny_weights(TINY, seed=1)
    path = folder(tmp_path, {name: own[of] for name, of in COPY.items()})
    for weights in (None, tiny_base(TINY, seed=1, exact=False)):
        assert "--base-weights" in refusal(path, weights).remedy


def test_norms_can_be_compared_with_a_quantized_base(tmp_path: Path) -> None:
    """Quantized files keep norms as they were trained."""
    path = folder(tmp_path, {NORM: tiny_weights(TINY, seed=1)[NORM]})
    assert NORM in read(path, tiny_base(TINY, seed=1, exact=False))
