"""Merged bases are their bases with the adapters: in numbers, through llama.cpp, and in every stored type."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from edgelora_converters.errors import ConversionFailed
from edgelora_converters.lora.adapter import LoraAdapter, LoraPair, Target
from edgelora_converters.lora.combine import Part
from edgelora_converters.merge import gguf as merge_gguf
from edgelora_converters.merge.merge import MergeReport, merge
from edgelora_converters.oracle.llama import Part as Acting
from edgelora_converters.oracle.open import load_gguf, load_hf
from edgelora_converters.tensors.safetensors_reader import open_safetensors
from edgelora_converters.weights.open import open_base_weights
from edgelora_models.errors import AdapterIncompatible, AdapterUnsupported, EdgeloraError, StorageError, UsageError
from edgelora_models.gguf_header import read_header
from edgelora_models.identity import identify_gguf
from edgelora_models.modules import BY_HF, EMBEDDING, HEAD
from edgelora_models.shape import LlamaShape
from tests.support.bases import write_tiny_gguf
from tests.support.lora import GQA, WIDE_HEADS, delta, random_adapter
from tests.support.native import native_logits, native_model
from tests.support.oracles import TOKENS, deltas, distance, tiny_oracle, write_tiny_hf

Q, K, DOWN = (Target(1, BY_HF[name]) for name in ("self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj"))
KQUANTS = LlamaShape(layers=1, hidden=256, heads=4, kv_heads=2, head_dim=64, ffn=256, vocab=GQA.vocab, tied=False)


def part(adapter: LoraAdapter, weight: float = 1.0, name: str = "one") -> Part:
    return Part(name, adapter, weight)


def dora(adapter: LoraAdapter, *, seed: int = 5) -> LoraAdapter:
    """The same with a magnitude for every row, as DoRA trains it: near the norms of the rows."""
    rng = np.random.default_rng(seed)
    pairs = {
        target: replace(pair, magnitude=(1 + rng.random(len(pair.b))).astype(np.float32))
        for target, pair in adapter.pairs.items()
    }
    return replace(adapter, pairs=pairs)


def both_kinds(tmp_path: Path, shape: LlamaShape) -> list[tuple[Path, Callable[[Path], Any]]]:
    return [
        (write_tiny_hf(tmp_path / "hf", shape, seed=1), lambda path: load_hf(path, dtype="float64")),
        (write_tiny_gguf(tmp_path / "base.gguf", shape, seed=1), lambda path: load_gguf(path, dtype="float64")),
    ]


@pytest.mark.parametrize("shape", [GQA, replace(WIDE_HEADS, tied=True)], ids=["gqa", "wide-heads-tied"])
def test_merged_alone_is_the_base_with_the_adapter(tmp_path: Path, shape: LlamaShape) -> None:
    """The oracle on the merged F32 base gives the logits of the oracle with the adapter, in both formats."""
    adapter = random_adapter(shape, seed=2, ranks=(1, 4), scales=(2.0, 0.5, -1.0))
    oracle = tiny_oracle(shape, seed=1)
    wanted = oracle.logits(TOKENS, deltas(adapter))
    for number, (base, load) in enumerate(both_kinds(tmp_path, shape)):
        report = merge([part(adapter)], base, tmp_path / f"{number}")
        assert distance(load(tmp_path / f"{number}").logits(TOKENS), wanted) < 1e-5
        assert report.error < 1e-7 and report.noise < 1e-6 and report.kept == pytest.approx(1, abs=1e-6)
        assert len(report.modules) == len(adapter.pairs)
    assert distance(oracle.logits(TOKENS), wanted) > 0.01


def test_llama_cpp_runs_it(tmp_path: Path) -> None:
    """Real llama.cpp on the merged file, with nothing loaded beside it, answers as the adapter does."""
    adapter = random_adapter(GQA, seed=2)
    base = write_tiny_gguf(tmp_path / "base.gguf", GQA, seed=1)
    merge([part(adapter)], base, tmp_path / "merged.gguf")
    with native_model(tmp_path / "merged.gguf") as model:
        found = native_logits(model, TOKENS)
    assert distance(found, tiny_oracle(GQA, seed=1).logits(TOKENS, deltas(adapter))) < 5e-5


def test_weights_and_several(tmp_path: Path) -> None:
    """Several adapters are added, each by its weight; one of weight 0 leaves no trace."""
    one, two = random_adapter(GQA, seed=2), random_adapter(GQA, seed=3, ranks=(2,), targets=[Q, DOWN])
    base = write_tiny_hf(tmp_path / "hf", GQA, seed=1)
    merge([part(one, 0.7), part(two, -0.3), part(one, 0.0)], base, tmp_path / "out")
    wanted = tiny_oracle(GQA, seed=1).logits(TOKENS, [Acting(deltas(one), 0.7), Acting(deltas(two), -0.3)])
    assert distance(load_hf(tmp_path / "out", dtype="float64").logits(TOKENS), wanted) < 1e-5


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_dora(tmp_path: Path, weight: float) -> None:
    """W' = m (W + s B A) / ||W + s B A|| by rows, in both formats; a weight takes that share of the whole change."""
    adapter = dora(random_adapter(GQA, seed=2, targets=[Q, K, DOWN]))
    for number, (base, _) in enumerate(both_kinds(tmp_path, GQA)):
        merge([part(adapter, weight)], base, tmp_path / f"{number}")
        with open_base_weights(base) as before, open_base_weights(tmp_path / f"{number}") as after:
            for target, pair in adapter.pairs.items():
                assert pair.magnitude is not None
                plain = before.read(f"{target.hf_path}.weight").astype(np.float64)
                moved = plain + delta(pair)
                full = moved * (pair.magnitude / np.linalg.norm(moved, axis=1))[:, None]
                wanted = plain + weight * (full - plain)
                np.testing.assert_allclose(after.read(f"{target.hf_path}.weight"), wanted, atol=1e-6)


def test_embedding_and_head(tmp_path: Path) -> None:
    """The embedding's rows are tokens: it gains the transpose of scale * B A; the head is a linear module."""
    rng = np.random.default_rng(0)
    pairs = {}
    for module in (EMBEDDING, HEAD):
        a = rng.standard_normal((3, module.in_features(GQA))).astype(np.float32)
        b = rng.standard_normal((module.out_features(GQA), 3)).astype(np.float32)
        pairs[Target(None, module)] = LoraPair(a, b, 0.5)
    adapter = LoraAdapter(pairs, "0" * 64, None)
    for number, (base, _) in enumerate(both_kinds(tmp_path, GQA)):
        merge([part(adapter)], base, tmp_path / f"{number}")
        with open_base_weights(base) as before, open_base_weights(tmp_path / f"{number}") as after:
            for target, pair in pairs.items():
                name = f"{target.hf_path}.weight"
                change = delta(pair).T if target.module == EMBEDDING else delta(pair)
                np.testing.assert_allclose(after.read(name), before.read(name) + change, atol=1e-5)


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_0", "Q4_K_M"])
def test_quantized_bases_tell_what_rounding_costs(tmp_path: Path, kind: str) -> None:
    """Each tensor keeps its type; the errors told are those of the file, module by module and in sum."""
    adapter = random_adapter(KQUANTS, seed=2)
    base = write_tiny_gguf(tmp_path / "base.gguf", KQUANTS, seed=1, quantization=kind)
    report = merge([part(adapter)], base, tmp_path / "out.gguf")
    one, two = read_header(base), read_header(tmp_path / "out.gguf")
    assert {n: (t.type, t.shape) for n, t in one.tensors.items()} == {
        n: (t.type, t.shape) for n, t in two.tensors.items()
    }
    off = wanted_square = change_square = along = 0.0
    with open_base_weights(base) as before, open_base_weights(tmp_path / "out.gguf") as after:
        for told, (target, pair) in zip(report.modules, adapter.pairs.items(), strict=True):
            plain = before.read(f"{target.hf_path}.weight").astype(np.float64)
            wanted, found = plain + delta(pair), after.read(f"{target.hf_path}.weight").astype(np.float64)
            assert told.path == target.hf_path
            assert told.error == pytest.approx(np.linalg.norm(found - wanted) / np.linalg.norm(wanted), rel=1e-6)
            assert told.noise == pytest.approx(np.linalg.norm(found - wanted) / np.linalg.norm(delta(pair)), rel=1e-6)
            off += float(np.sum((found - wanted) ** 2))
            wanted_square += float(np.sum(wanted**2))
            change_square += float(np.sum(delta(pair) ** 2))
            along += float(np.sum((found - plain) * delta(pair)))
    assert report.error == pytest.approx((off / wanted_square) ** 0.5, rel=1e-6)
    assert report.kept == pytest.approx(along / change_square, rel=1e-6)
    assert 0 < report.error < {"F16": 1e-3, "Q8_0": 0.01}.get(kind, 0.15)
    assert report.kept == pytest.approx(1, abs=0.1)


def test_what_is_not_merged_is_not_touched(tmp_path: Path) -> None:
    """Other tensors and all keys are the base's, byte for byte; what was merged is noted in new keys."""
    base = write_tiny_gguf(tmp_path / "base.gguf", GQA, seed=1, quantization="Q8_0")
    merge([part(random_adapter(GQA, targets=[Q]), 0.5)], base, tmp_path / "out.gguf")
    one, two = read_header(base), read_header(tmp_path / "out.gguf")
    raw = base.read_bytes(), (tmp_path / "out.gguf").read_bytes()
    for name, tensor in one.tensors.items():
        other = two.tensors[name]
        same = raw[0][tensor.offset :][: tensor.nbytes] == raw[1][other.offset :][: other.nbytes]
        assert same is (name != Q.gguf_path)
    added = {key: value for key, value in two.metadata.items() if key not in one.metadata}
    assert {key: two.metadata[key] for key in one.metadata} == one.metadata
    assert added["edgelora.merge.1.adapters"] == "one:0.5"
    assert added["edgelora.merge.1.base_fingerprint"] == identify_gguf(base).fingerprint.digest
    assert identify_gguf(tmp_path / "out.gguf").fingerprint == identify_gguf(base).fingerprint
    merge([part(random_adapter(GQA, targets=[Q]))], tmp_path / "out.gguf", tmp_path / "again.gguf")
    assert "edgelora.merge.2.adapters" in read_header(tmp_path / "again.gguf").metadata


def sharded(folder: Path, dtype: str = "float16") -> Path:
    """The tiny base in two shards with an index, a tokenizer's file, a licence and an old pickle beside them."""
    write_tiny_hf(folder, GQA, seed=1)
    weights = {name: array.astype(dtype) for name, array in load_file(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    index = {}
    for number, some in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in some}, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(some, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "LICENSE").write_text("ours")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "original").mkdir()
    return folder


def test_a_sharded_folder(tmp_path: Path) -> None:
    """Shards, index and types stay; files beside the weights are copied, other weights are not."""
    base = sharded(tmp_path / "base")
    adapter = random_adapter(GQA, seed=2)
    report = merge([part(adapter)], base, tmp_path / "out")
    kept = {"LICENSE", "config.json", "model.safetensors.index.json"}
    shards = {path.name for path in base.glob("*.safetensors")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == kept | shards
    for name in shards:
        with open_safetensors(base / name) as one, open_safetensors(tmp_path / "out" / name) as two:
            assert {n: (i.dtype, i.shape) for n, i in one.tensors.items()} == {
                n: (i.dtype, i.shape) for n, i in two.tensors.items()
            }
            assert two.metadata["format"] == "pt" and "edgelora.merge.1.source_digests" in two.metadata
    with open_base_weights(base) as before, open_base_weights(tmp_path / "out") as after:
        for target, pair in adapter.pairs.items():
            name = f"{target.hf_path}.weight"
            wanted = (before.read(name) + delta(pair)).astype(np.float32).astype(np.float16).astype(np.float32)
            np.testing.assert_array_equal(after.read(name), wanted)
        np.testing.assert_array_equal(after.read("lm_head.weight"), before.read("lm_head.weight"))
    assert 1e-5 < report.error < 1e-3


def test_the_same_bytes(tmp_path: Path) -> None:
    """The same parts and base give the same files."""
    for base in (sharded(tmp_path / "hf"), write_tiny_gguf(tmp_path / "base.gguf", GQA, seed=1, quantization="Q8_0")):
        outs = [tmp_path / f"{base.stem}-{n}" for n in (1, 2)]
        for out in outs:
            merge([part(random_adapter(GQA))], base, out)
        files = [sorted(out.rglob("*")) if out.is_dir() else [out] for out in outs]
        assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


def refused(error: type[EdgeloraError], base: Path, out: Path, *parts: Part) -> str:
    with pytest.raises(error) as caught:
        merge(parts, base, out)
    assert sorted(path.name for path in out.parent.iterdir()) == sorted({base.name, *BESIDE})
    return caught.value.code


BESIDE: set[str] = set()


def test_refusals(tmp_path: Path) -> None:
    """What a base cannot be has its code, and nothing is left behind."""
    base = write_tiny_gguf(tmp_path / "base.gguf", GQA, seed=1, quantization="F16")
    out = tmp_path / "out.gguf"
    plain = random_adapter(GQA, targets=[Q])
    pair = plain.pairs[Q]
    biased = replace(plain, pairs={Q: replace(pair, bias=np.ones(len(pair.b), np.float32))})
    huge = replace(plain, pairs={Q: LoraPair(pair.a, pair.b, 1e7)})
    outer = Target(None, EMBEDDING)
    a, b = np.ones((2, GQA.vocab), np.float32), np.ones((GQA.hidden, 2), np.float32)
    embedding = LoraAdapter({outer: LoraPair(a, b, 1.0, magnitude=np.ones(GQA.hidden, np.float32))}, "0" * 64, None)
    assert refused(AdapterUnsupported, base, out, part(replace(plain, invocation=(1,)))) == "merge_alora"
    assert refused(AdapterUnsupported, base, out, part(biased)) == "merge_bias"
    assert refused(AdapterUnsupported, base, out, part(huge)) == "merge_overflow"
    assert refused(AdapterUnsupported, base, out, part(embedding)) == "merge_dora_embedding"
    assert refused(AdapterIncompatible, base, out, part(random_adapter(KQUANTS))) == "shape_mismatch"
    assert refused(UsageError, base, out, part(plain, 0.0)) == "merge_nothing"
    assert refused(UsageError, base, base, part(plain)) == "exists"


def test_a_tied_base_has_one_matrix_for_two(tmp_path: Path) -> None:
    """Merging the embedding alone would change the head as well."""
    base = write_tiny_hf(tmp_path / "base", WIDE_HEADS, seed=1)
    a, b = np.ones((2, WIDE_HEADS.vocab), np.float32), np.ones((WIDE_HEADS.hidden, 2), np.float32)
    adapter = LoraAdapter({Target(None, EMBEDDING): LoraPair(a, b, 1.0)}, "0" * 64, None)
    assert refused(AdapterUnsupported, base, tmp_path / "out", part(adapter)) == "merge_tied"


@pytest.mark.parametrize("kind", ["F32", "Q4_0"])
def test_the_check_sees_a_wrong_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Rows of q and k left in Hugging Face's order are no longer the base's: nothing is kept of such a file."""
    base = write_tiny_gguf(tmp_path / "base.gguf", GQA, seed=1, quantization=kind)
    monkeypatch.setattr(merge_gguf, "interleave", lambda rows, heads: rows)
    adapter = random_adapter(GQA, targets=[Q])
    assert refused(ConversionFailed, base, tmp_path / "out.gguf", part(adapter)) == "merge_mismatch"


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the middle of writing is told, and the half of a base is gone."""
    from edgelora_converters.merge import stored as merge_stored

    def full(*_: object) -> NDArray[Any]:
        raise OSError(28, "No space left on device")

    base = write_tiny_hf(tmp_path / "base", GQA, seed=1)
    monkeypatch.setattr(merge_stored, "requantised", full)
    assert refused(StorageError, base, tmp_path / "out", part(random_adapter(GQA))) == "no_space"


def test_too_small_a_disk_is_told_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the result cannot fit, nothing is begun."""
    base = write_tiny_hf(tmp_path / "base", GQA, seed=1)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    assert refused(StorageError, base, tmp_path / "out", part(random_adapter(GQA))) == "no_space"


def test_progress_ends_at_its_end(tmp_path: Path) -> None:
    """Bytes done only grow, and reach what was announced."""
    seen: list[tuple[int, int]] = []
    base = write_tiny_hf(tmp_path / "base", GQA, seed=1)
    merge([part(random_adapter(GQA))], base, tmp_path / "out", progress=lambda *step: seen.append(step))
    assert seen == sorted(seen) and len({total for _, total in seen}) == 1
    assert seen[-1][0] == seen[-1][1]


def test_a_report_sums_up(tmp_path: Path) -> None:
    """Every merged module is in the report once, in the order of a forward pass."""
    base = write_tiny_hf(tmp_path / "base", GQA, seed=1)
    report: MergeReport = merge([part(random_adapter(GQA, targets=[DOWN, Q]))], base, tmp_path / "out")
    assert [module.path for module in report.modules] == [Q.hf_path, DOWN.hf_path]
    assert report.nbytes == (tmp_path / "out" / "model.safetensors").stat().st_size
