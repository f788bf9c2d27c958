"""Checkpoints: whole, in shards, and every way of not being whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgelora_converters.base.checkpoint import open_checkpoint
from edgelora_models.errors import BaseError
from tests.support.adapters import write_raw, write_safetensors
from tests.support.bases import tiny_weights
from tests.support.checkpoints import VOCAB, write_checkpoint, write_weights
from tests.support.lora import GQA, WIDE_HEADS

SHAPE = replace(GQA, vocab=VOCAB)
TIED = replace(WIDE_HEADS, vocab=VOCAB)
SHARD = "model-00002-of-00003.safetensors"
INDEX = "model.safetensors.index.json"


def refused(folder: Path, code: str = "base_weights") -> str:
    with pytest.raises(BaseError) as caught, open_checkpoint(folder):
        pass
    assert caught.value.code == code
    return caught.value.what


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "base", SHAPE, shards=3)


@pytest.mark.parametrize("shards", [1, 3])
def test_whole(tmp_path: Path, shards: int) -> None:
    """One file or shards: every weight, in its shape, with its dtype."""
    folder = write_checkpoint(tmp_path / "base", SHAPE, shards=shards, dtype="BF16")
    with open_checkpoint(folder) as checkpoint:
        assert set(checkpoint.weights.names) == tiny_weights(SHAPE, seed=0).keys() == checkpoint.dtypes.keys()
        assert set(checkpoint.dtypes.values()) == {"BF16"}
        assert len(checkpoint.files) == shards
        assert checkpoint.parameters == sum(w.size for w in tiny_weights(SHAPE, seed=0).values())


def test_shards_without_an_index(sharded: Path) -> None:
    """Numbered shards say themselves how many they are."""
    (sharded / INDEX).unlink()
    with open_checkpoint(sharded) as checkpoint:
        assert len(checkpoint.files) == 3
    (sharded / SHARD).unlink()
    assert "2 of 3 shards" in refused(sharded)


def test_a_missing_shard(sharded: Path) -> None:
    """A shard the index names and that is not there is named."""
    (sharded / SHARD).unlink()
    assert SHARD in refused(sharded)


def test_the_index_is_the_truth(sharded: Path) -> None:
    """A tensor in another shard than the index says, or in one the index does not know, is refused."""
    index = json.loads((sharded / INDEX).read_text())["weight_map"]
    first, *_, last = index
    (sharded / INDEX).write_text(json.dumps({"weight_map": index | {first: index[last], last: index[first]}}))
    assert first in refused(sharded) or last in refused(sharded)
    more = index | {"model.layers.9.input_layernorm.weight": SHARD}
    (sharded / INDEX).write_text(json.dumps({"weight_map": more}))
    assert "model.layers.9" in refused(sharded)


def test_a_tensor_twice(sharded: Path) -> None:
    """Two shards with the same tensor could differ: refused, though one would do."""
    (sharded / INDEX).unlink()
    weights = list(tiny_weights(SHAPE, seed=0).items())
    for number in (1, 2):
        part = dict(weights[number - 1 :: 3]) | {"model.norm.weight": np.ones(64, np.float32)}
        write_safetensors(sharded / f"model-0000{number}-of-00003.safetensors", part)
    assert "model.norm.weight" in refused(sharded) and "two files" in refused(sharded)


def test_another_file_beside(sharded: Path) -> None:
    """A model file that the index does not name might be the one that was meant."""
    write_weights(sharded, tiny_weights(SHAPE, seed=1))
    assert "model.safetensors" in refused(sharded)


def test_missing_and_unknown_tensors(tmp_path: Path) -> None:
    """What is missing is named, and what a Llama has not; buffers of old releases are let through."""
    weights = tiny_weights(SHAPE, seed=0)
    folder = write_checkpoint(tmp_path / "base", SHAPE)
    kept = {name: array for name, array in weights.items() if "layers.1.mlp" not in name}
    write_weights(folder, kept)
    assert "model.layers.1.mlp.down_proj.weight" in refused(folder)
    write_weights(folder, weights | {"model.layers.0.self_attn.q_proj.bias": np.zeros(64, np.float32)})
    assert "q_proj.bias" in refused(folder)
    write_weights(folder, weights | {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32)})
    with open_checkpoint(folder) as checkpoint:
        assert set(checkpoint.weights.names) == weights.keys()


def test_another_shape(tmp_path: Path) -> None:
    """A tensor of another shape than config.json says is refused."""
    weights = tiny_weights(SHAPE, seed=0) | {"model.norm.weight": np.ones(63, np.float32)}
    folder = write_checkpoint(tmp_path / "base", SHAPE, weights=weights)
    assert "model.norm.weight" in refused(folder, "bad_base")


def test_tied_heads(tmp_path: Path) -> None:
    """With tied embeddings a head that is the embedding is let through, another is refused."""
    weights = tiny_weights(TIED, seed=0)
    head = weights["model.embed_tokens.weight"].copy()
    folder = write_checkpoint(tmp_path / "base", TIED, weights=weights | {"lm_head.weight": head})
    with open_checkpoint(folder) as checkpoint:
        assert "lm_head.weight" not in checkpoint.weights.names
    head[-1, -1] += 1
    write_weights(folder, weights | {"lm_head.weight": head})
    assert "lm_head.weight" in refused(folder)


def test_other_numbers(tmp_path: Path) -> None:
    """Weights that are no floats are refused by name."""
    weights = tiny_weights(SHAPE, seed=0)
    folder = write_checkpoint(tmp_path / "base", SHAPE)
    header, data = {}, b""
    for name, array in weights.items():
        blob = array.astype(np.int32).tobytes()
        header[name] = {"dtype": "I32", "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(blob)]}
        data += blob
    write_raw(folder / "model.safetensors", json.dumps(header).encode(), data)
    assert "I32" in refused(folder, "base_dtype")


def test_pickles(tmp_path: Path) -> None:
    """A folder of pickles is refused unread."""
    folder = write_checkpoint(tmp_path / "base", SHAPE)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "base_pickle")


def test_no_weights(tmp_path: Path) -> None:
    """A folder without weights is refused."""
    folder = write_checkpoint(tmp_path / "base", SHAPE)
    (folder / "model.safetensors").unlink()
    refused(folder, "bad_base")
