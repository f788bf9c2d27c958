"""peft_token_rows: which tokens an adapter trained, and the rows that stand there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelora_converters.convert.verify import verify_peft
from edgelora_converters.errors import ConversionFailed
from edgelora_converters.lora.adapter import Target, TokenRows
from edgelora_converters.peft import reader as peft_reader
from edgelora_converters.peft import writer as peft_writer
from edgelora_models.errors import AdapterCorrupt, AdapterError, AdapterIncompatible, AdapterUnsupported
from edgelora_models.modules import EMBEDDING, HEAD
from edgelora_models.shape import LlamaShape
from tests.support.adapters import peft_tensors, write_peft, write_safetensors
from tests.support.lora import GQA, WIDE_HEADS, random_adapter

E, H = Target(None, EMBEDDING), Target(None, HEAD)
DELTA = "token_adapter.trainable_tokens_delta"


def rows(count: int, width: int = GQA.hidden) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(count).standard_normal((count, width)).astype(np.float32)


def folder(path: Path, indices: Any, stored: dict[str, np.ndarray[Any, Any]], shape: LlamaShape = GQA) -> Path:
    """A plain adapter on q_proj with these indices in its configuration and these rows in its file."""
    write_peft(path, shape, targets=["q_proj"], trainable_token_indices=indices)
    tensors = peft_tensors(shape, rank=4, targets=["q_proj"])
    tensors |= {f"base_model.model.{module}.{DELTA}": values for module, values in stored.items()}
    write_safetensors(path / "adapter_model.safetensors", tensors)
    return path


@pytest.mark.parametrize("indices", [[250, 3], {"embed_tokens": [250, 3]}, {"model.embed_tokens": [250, 3]}])
def test_rows_of_the_embedding(tmp_path: Path, indices: Any) -> None:
    """As a list, which means the embedding, or by its name; in the order of the tokens."""
    adapter = peft_reader.read(folder(tmp_path / "a", indices, {"model.embed_tokens": rows(2)}), GQA)
    assert adapter.token_rows.keys() == {E} and adapter.token_rows[E].tokens == (250, 3)
    np.testing.assert_array_equal(adapter.token_rows[E].rows, rows(2))


def test_rows_of_both_ends(tmp_path: Path) -> None:
    """Each with its own tokens."""
    stored = {"model.embed_tokens": rows(2), "lm_head": rows(3)}
    adapter = peft_reader.read(folder(tmp_path / "a", {"embed_tokens": [1, 2], "lm_head": [5, 6, 7]}, stored), GQA)
    assert {t: r.tokens for t, r in adapter.token_rows.items()} == {E: (1, 2), H: (5, 6, 7)}


def test_a_tied_head_follows(tmp_path: Path) -> None:
    """PEFT saves one set of rows where both ends of a tied base train the same tokens."""
    both = {"embed_tokens": [1, 2], "lm_head": [1, 2]}
    stored = {"model.embed_tokens": rows(2, WIDE_HEADS.hidden)}
    adapter = peft_reader.read(folder(tmp_path / "a", both, stored, WIDE_HEADS), WIDE_HEADS)
    assert adapter.token_rows.keys() == {E}


@pytest.mark.parametrize(
    ("indices", "stored", "error", "code"),
    [
        ([1, 2], {}, AdapterCorrupt, "adapter_incomplete"),
        ([1, 2], {"model.embed_tokens": rows(3)}, AdapterCorrupt, "adapter_tensor_shape"),
        ([1, GQA.vocab], {"model.embed_tokens": rows(2)}, AdapterIncompatible, "adapter_token_rows"),
        ([1, 2], {"model.embed_tokens": rows(2, 32)}, AdapterIncompatible, "adapter_token_rows"),
        ([1, 1], {}, AdapterUnsupported, "adapter_config"),
        ({"q_proj": [1]}, {}, AdapterUnsupported, "adapter_config"),
        ("all", {}, AdapterUnsupported, "adapter_config"),
        ({"embed_tokens": [1], "lm_head": [1]}, {"model.embed_tokens": rows(1)}, AdapterCorrupt, "adapter_incomplete"),
        (None, {"model.embed_tokens": rows(1)}, AdapterUnsupported, "adapter_token_rows"),
    ],
)
def test_what_does_not_fit_together(
    tmp_path: Path, indices: Any, stored: dict[str, Any], error: type[AdapterError], code: str
) -> None:
    """Rows that are missing, of another number or base, tokens named twice, other modules: each with its own code."""
    with pytest.raises(error) as caught:
        peft_reader.read(folder(tmp_path / "a", indices, stored), GQA)
    assert caught.value.code == code


def test_rows_go_back_to_peft(tmp_path: Path) -> None:
    """Written and read again they are the same, bit for bit; others are noticed."""
    adapter = replace(random_adapter(GQA), token_rows={E: TokenRows((9, 4), rows(2)), H: TokenRows((7,), rows(1))})
    peft_writer.write(adapter, GQA, tmp_path / "a", provenance={})
    assert verify_peft(tmp_path / "a", adapter, GQA).worst < 1e-6
    other = replace(adapter, token_rows={**adapter.token_rows, H: TokenRows((8,), rows(1))})
    with pytest.raises(ConversionFailed):
        verify_peft(tmp_path / "a", other, GQA)
