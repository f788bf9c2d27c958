"""Adapters that take something of their base's weights: each file of a base has a conversion of its own."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgelora.core.errors import AdapterUnsupported, BaseError
from edgelora.store.adapters.store import Store
from edgelora.store.bases.record import BaseRecord
from edgelora.store.bases.registry import Bases
from edgelora_converters.lora.adapter import LoraAdapter, Target, TokenRows
from edgelora_converters.lora.completion import NOTE
from edgelora_converters.lora.dora import with_row_scales
from edgelora_converters.mapped import reader as mapped_reader
from edgelora_converters.mapped.source import row_scale_of
from edgelora_converters.peft import writer as peft_writer
from edgelora_converters.weights.open import open_base_weights
from edgelora_models.gguf_header import read_header
from edgelora_models.modules import EMBEDDING
from tests.support.bases import write_tiny_gguf
from tests.support.lora import GQA, dora_adapter, random_adapter
from tests.support.records import directories

DORA = dora_adapter(GQA, ranks=(2,))


def bases(tmp_path: Path) -> tuple[BaseRecord, BaseRecord]:
    """One base in two quantizations: one fingerprint, other weights."""
    registry = Bases(directories(tmp_path))
    full, small = (
        registry.add(write_tiny_gguf(tmp_path / f"{kind}.gguf", GQA, seed=7, quantization=kind), kind.lower())
        for kind in ("F32", "Q4_0")
    )
    assert full.identity.fingerprint == small.identity.fingerprint
    return full, small


def source(tmp_path: Path, adapter: LoraAdapter = DORA, name: str = "adapter") -> Path:
    peft_writer.write(adapter, GQA, tmp_path / name, provenance={})
    return tmp_path / name


def test_a_dora_adapter_is_converted_for_each_file_of_a_base(store: Store, tmp_path: Path) -> None:
    """With that file's own norms, said in the file, and once: the second look finds it."""
    full, small = bases(tmp_path)
    _, version = store.add(source(tmp_path), base=full)
    assert version.needs_base
    paths = {record.name: store.ref("adapter", record).path for record in (full, small)}
    for record, note in ((full, "F32, as trained"), (small, "Q4_0, dequantized")):
        with open_base_weights(record.path) as weights:
            wanted = with_row_scales(DORA, weights).row_scales
        for target, pair in mapped_reader.read(paths[record.name], GQA).pairs.items():
            np.testing.assert_array_equal(row_scale_of(target, pair, GQA), wanted[target])
        assert read_header(paths[record.name]).metadata[f"edgelora.{NOTE}"] == note
        stamp = paths[record.name].stat().st_mtime_ns
        assert store.ref("adapter", record).path.stat().st_mtime_ns == stamp
    assert paths["f32"] != paths["q4_0"] and not store.verify()


def test_plain_adapters_share_a_conversion(store: Store, tmp_path: Path) -> None:
    """What takes nothing of the weights is the same for every quantization."""
    full, small = bases(tmp_path)
    _, version = store.add(source(tmp_path, random_adapter(GQA)), base=full)
    assert not version.needs_base
    assert store.ref("adapter", full).path == store.ref("adapter", small).path


def test_trained_tokens_are_the_base_files_own_rows(store: Store, tmp_path: Path) -> None:
    """What is added is the new row less what stands there: with another quantization it is another."""
    full, small = bases(tmp_path)
    embedding = Target(None, EMBEDDING)
    rows = np.random.default_rng(0).standard_normal((2, GQA.hidden)).astype(np.float32)
    adapter = replace(random_adapter(GQA, ranks=(2,)), token_rows={embedding: TokenRows((5, 250), rows)})
    store.add(source(tmp_path, adapter), base=full)
    for record in (full, small):
        pair = mapped_reader.read(store.ref("adapter", record).path, GQA).pairs[embedding]
        with open_base_weights(record.path) as weights:
            old = weights.read("model.embed_tokens.weight")
        changed = old + pair.a.astype(np.float32) @ pair.b
        np.testing.assert_allclose(changed[[5, 250]], rows, atol=1e-6)
        np.testing.assert_array_equal(np.delete(changed, (5, 250), axis=0), np.delete(old, (5, 250), axis=0))


def test_a_base_that_changed_is_noticed(store: Store, tmp_path: Path) -> None:
    """Norms of a file that is not the one that was added would be under its name."""
    full, _ = bases(tmp_path)
    os.utime(full.path, ns=(1, 1))
    with pytest.raises(BaseError) as caught:
        store.add(source(tmp_path), base=full)
    assert caught.value.code == "base_changed" and store.names() == ()


def test_llama_cpps_own_lora_cannot_carry_it(store: Store, tmp_path: Path) -> None:
    """Where the backend falls back to it, the adapter is refused by code, and stays installed."""
    full, _ = bases(tmp_path)
    store.add(source(tmp_path), base=full)
    with pytest.raises(AdapterUnsupported) as caught:
        store.ref("adapter", full, to="gguf")
    assert caught.value.code == "dora" and store.names() == ("adapter",)
