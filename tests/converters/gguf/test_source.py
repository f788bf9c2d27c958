"""GGUF adapters as sources: our own, and those of llama.cpp's converter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import gguf as gguf_package
import numpy as np
import pytest
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray

from edgelora_converters.gguf import source as gguf_source
from edgelora_converters.gguf import writer as gguf_writer
from edgelora_converters.lora.adapter import LoraAdapter, LoraPair, Target
from edgelora_converters.tensors.row_order import interleave
from edgelora_models.errors import AdapterCorrupt, AdapterError, AdapterIncompatible, AdapterUnsupported
from edgelora_models.modules import EMBEDDING, HEAD
from tests.support.bases import write_tiny_gguf
from tests.support.fuzz import mutations
from tests.support.lora import GQA, every_target, random_adapter
from tests.support.native import native_logits, native_model
from tests.support.oracles import TOKENS, deltas, distance, tiny_oracle

Tensors = dict[str, NDArray[np.float32]]


def foreign(adapter: LoraAdapter) -> Tensors:
    """The factors as llama.cpp's converter names and orders them, nothing folded."""
    tensors: Tensors = {}
    for target, pair in adapter.pairs.items():
        turned = target.module == EMBEDDING
        tensors[f"{target.gguf_path}.lora_a"] = np.ascontiguousarray(pair.a.T) if turned else pair.a
        tensors[f"{target.gguf_path}.lora_b"] = interleave(pair.b, target.module.rotary_heads(GQA))
    return tensors


def write(path: Path, tensors: Mapping[str, NDArray[np.float32]], *, alpha: float | None, kind: str = "F32") -> Path:
    writer = gguf_package.GGUFWriter(str(path), "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_string("general.base_model.0.name", "Tiny Llama")
    if alpha is not None:
        writer.add_float32("adapter.lora.alpha", alpha)
    stored = gguf_package.GGMLQuantizationType[kind]
    for name, values in tensors.items():
        writer.add_tensor(name, quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_alpha_is_the_scale(tmp_path: Path) -> None:
    """alpha over each module's own rank, as llama.cpp applies it; the factors stay as stored."""
    source = random_adapter(GQA, ranks=(4, 8))
    found = gguf_source.read(write(tmp_path / "a.gguf", foreign(source), alpha=16.0), GQA)
    assert {pair.scale for pair in found.pairs.values()} == {4.0, 2.0}
    for target, pair in found.pairs.items():
        assert pair.scale == 16 / pair.rank
        np.testing.assert_array_equal(pair.a, source.pairs[target].a)
        np.testing.assert_array_equal(pair.b, source.pairs[target].b)
    assert found.base_model == "Tiny Llama"


@pytest.mark.parametrize("alpha", [None, 0.0])
def test_no_alpha_is_scale_one(tmp_path: Path, alpha: float | None) -> None:
    """llama.cpp takes a missing alpha and 0.0 for the caller's scale alone."""
    found = gguf_source.read(write(tmp_path / "a.gguf", foreign(random_adapter(GQA)), alpha=alpha), GQA)
    assert {pair.scale for pair in found.pairs.values()} == {1.0}


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0"])
def test_stored_types(tmp_path: Path, kind: str) -> None:
    """What the file holds is what is read, exactly; Q8_0 needs ranks of 32 and more."""
    tensors = foreign(random_adapter(GQA, ranks=(32,)))
    found = gguf_source.read(write(tmp_path / "a.gguf", tensors, alpha=None, kind=kind), GQA)
    stored = gguf_package.GGMLQuantizationType[kind]
    for name, values in tensors.items():
        tensors[name] = dequantize(quantize(values, stored), stored)
    for name, values in foreign(found).items():
        np.testing.assert_array_equal(values, tensors[name])


def test_llama_cpp_agrees(tmp_path: Path) -> None:
    """What llama.cpp computes with such a file is what the oracle computes with the adapter as read."""
    targets = [*every_target(GQA)[:9], Target(None, HEAD)]
    source = random_adapter(GQA, ranks=(4, 3), targets=targets)
    path = write(tmp_path / "a.gguf", foreign(source), alpha=6.0)
    found = gguf_source.read(path, GQA)
    assert found.pairs.keys() == source.pairs.keys()
    inner = replace(found, pairs={t: pair for t, pair in found.pairs.items() if t.layer is not None})
    bare = write(tmp_path / "b.gguf", foreign(inner), alpha=6.0)
    with native_model(write_tiny_gguf(tmp_path / "base.gguf", GQA, seed=1)) as model:
        logits = native_logits(model, TOKENS, bare)
    inner = replace(found, pairs={t: replace(p, scale=6.0 / p.rank) for t, p in inner.pairs.items()})
    assert distance(tiny_oracle(GQA, seed=1).logits(TOKENS, deltas(inner)), logits) < 5e-5


def test_the_embedding_is_turned_back(tmp_path: Path) -> None:
    """llama.cpp keeps the embedding's lora_a as [vocab, rank]."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, GQA.vocab), (GQA.hidden, 3)))
    target = Target(None, EMBEDDING)
    source = LoraAdapter({target: LoraPair(a, b, 1.0)}, "0" * 64, None)
    found = gguf_source.read(write(tmp_path / "a.gguf", foreign(source), alpha=None), GQA).pairs[target]
    np.testing.assert_array_equal(found.a, a)
    np.testing.assert_array_equal(found.b, b)


def test_an_invocation_is_read(tmp_path: Path) -> None:
    """An aLoRA stays one."""
    gguf_writer.write(replace(random_adapter(GQA), invocation=(3, 4)), GQA, tmp_path / "a.gguf", provenance={})
    assert gguf_source.read(tmp_path / "a.gguf", GQA).invocation == (3, 4)


PLAIN = foreign(random_adapter(GQA, targets=every_target(GQA)[:2]))
Q_A, Q_B = "blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"


@pytest.mark.parametrize(
    ("tensors", "kind", "error", "code"),
    [
        ({}, "F32", AdapterCorrupt, "empty_adapter"),
        ({Q_A: PLAIN[Q_A]}, "F32", AdapterCorrupt, "incomplete_pair"),
        ({Q_A: PLAIN[Q_A][:3], Q_B: PLAIN[Q_B]}, "F32", AdapterCorrupt, "rank_mismatch"),
        ({Q_A: PLAIN[Q_A][:, :32].copy(), Q_B: PLAIN[Q_B]}, "F32", AdapterIncompatible, "shape_mismatch"),
        ({"blk.7.attn_q.weight.lora_a": PLAIN[Q_A]}, "F32", AdapterIncompatible, "layer_mismatch"),
        ({"blk.0.attn_qkv.weight.lora_a": PLAIN[Q_A]}, "F32", AdapterUnsupported, "unknown_tensor"),
        ({"blk.0.attn_norm.weight": PLAIN[Q_A]}, "F32", AdapterUnsupported, "unknown_tensor"),
        ({Q_A: PLAIN[Q_A]}, "Q4_0", AdapterUnsupported, "tensor_dtype"),
        ({Q_A: PLAIN[Q_A] * np.nan, Q_B: PLAIN[Q_B]}, "F32", AdapterCorrupt, "tensor_not_finite"),
    ],
)
def test_refusals(tmp_path: Path, tensors: Tensors, kind: str, error: type[AdapterError], code: str) -> None:
    """Each way in which a file is no sound LoRA adapter of this base has its code."""
    with pytest.raises(error) as caught:
        gguf_source.read(write(tmp_path / "a.gguf", tensors, alpha=None, kind=kind), GQA)
    assert caught.value.code == code


def test_damaged_files(tmp_path: Path) -> None:
    """Whatever a header says, the outcome is an adapter or an error of the tree, never another exception."""
    path = write(tmp_path / "a.gguf", PLAIN, alpha=8.0)
    data, outcomes = path.read_bytes(), set()
    for mutant in mutations(data, seed=5, count=300, within=900):
        path.write_bytes(mutant)
        try:
            gguf_source.read(path, GQA)
        except AdapterError as error:
            outcomes.add(error.code)
    assert len(outcomes) > 3


def test_a_base_is_no_adapter(tmp_path: Path) -> None:
    """A model's own file is refused as what it is."""
    with pytest.raises(AdapterUnsupported) as caught:
        gguf_source.read(write_tiny_gguf(tmp_path / "base.gguf", GQA, seed=1), GQA)
    assert caught.value.code == "not_a_lora"
