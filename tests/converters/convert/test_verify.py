"""The gate: it passes what is exact, and every way a conversion has been known to go wrong fails it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora_converters.convert.verify import (
    LIMIT,
    Factors,
    compare,
    relative_distance,
    verify_gguf,
    verify_mapped,
    verify_mlx,
)
from edgelora_converters.errors import ConversionFailed
from edgelora_converters.gguf import writer as gguf_writer
from edgelora_converters.lora.adapter import LoraAdapter, LoraPair, Target
from edgelora_converters.mapped import writer as mapped_writer
from edgelora_converters.mlx import writer as mlx_writer
from edgelora_models.errors import AdapterError
from edgelora_models.gguf_header import read_header
from edgelora_models.modules import BY_HF, EMBEDDING, HEAD, LinearModule
from edgelora_models.shape import LlamaShape
from tests.support.lora import (
    GQA,
    WIDE_HEADS,
    delta,
    dora_adapter,
    full_adapter,
    random_adapter,
    random_pair,
    shaped_adapters,
)

Q, K, V = (Target(0, BY_HF[f"self_attn.{name}_proj"]) for name in "qkv")
WRITERS = {"mapped": mapped_writer.write, "gguf": gguf_writer.write, "mlx": mlx_writer.write}
GATES = {"mapped": verify_mapped, "gguf": verify_gguf, "mlx": verify_mlx}
FORMATS = pytest.mark.parametrize("to", ["mapped", "gguf", "mlx"])


def round_trip(written: LoraAdapter, source: LoraAdapter, shape: LlamaShape, out: Path, *, to: str) -> float:
    """Write one adapter, hold it against another: the worst distance, or the gate's error."""
    WRITERS[to](written, shape, out, provenance={})
    return GATES[to](out, source, shape).worst


@FORMATS
@settings(max_examples=25, deadline=None)
@given(shaped_adapters())
def test_exact_conversions_pass(
    tmp_path_factory: pytest.TempPathFactory, to: str, case: tuple[LlamaShape, LoraAdapter]
) -> None:
    """Any ranks, scales and modules pass with far less than the limit: only lora_b is rounded, once."""
    shape, adapter = case
    out = tmp_path_factory.mktemp("verify") / "out"
    assert round_trip(adapter, adapter, shape, out, to=to) < LIMIT / 5


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 5), st.floats(1e-6, 1.0))
def test_the_low_rank_distance_is_the_distance(seed: int, rank: int, other: int, size: float) -> None:
    """Without forming a delta it finds the same relative Frobenius norm as with both formed, ranks differing too."""
    rng = np.random.default_rng(seed)
    pair = random_pair(rng, Q, GQA, rank=rank, scale=1.7)
    new = random_pair(rng, Q, GQA, rank=other, scale=1.0)
    a = np.concatenate([pair.a, new.a])
    b = np.concatenate([pair.folded_b(), new.b * np.float32(size)], axis=1)
    wanted = np.linalg.norm(b.astype(np.float64) @ a - delta(pair)) / np.linalg.norm(delta(pair))
    assert relative_distance(pair, (a, b)) == pytest.approx(wanted, rel=1e-6)


def scaled(adapter: LoraAdapter, scale: Callable[[Target, LoraPair], float]) -> LoraAdapter:
    return replace(adapter, pairs={t: replace(p, scale=scale(t, p)) for t, p in adapter.pairs.items()})


@FORMATS
def test_rslora_without_its_root_fails(tmp_path: Path, to: str) -> None:
    """alpha / rank where alpha / sqrt(rank) was meant."""
    adapter = scaled(random_adapter(GQA, ranks=(8,)), lambda _, pair: 16 / math.sqrt(pair.rank))
    mutant = scaled(adapter, lambda _, pair: 16 / pair.rank)
    with pytest.raises(ConversionFailed):
        round_trip(mutant, adapter, GQA, tmp_path / "out", to=to)


@FORMATS
def test_a_global_alpha_fails(tmp_path: Path, to: str) -> None:
    """One alpha for all where a pattern gave a single module another; the error names that module."""
    adapter = scaled(random_adapter(GQA), lambda target, pair: (32 if target == V else 16) / pair.rank)
    mutant = scaled(adapter, lambda _, pair: 16 / pair.rank)
    with pytest.raises(ConversionFailed) as caught:
        round_trip(mutant, adapter, GQA, tmp_path / "out", to=to)
    assert caught.value.param == V.hf_path


@pytest.mark.parametrize("shape", [GQA, WIDE_HEADS])
@pytest.mark.parametrize("target", [Q, K])
def test_rows_in_the_wrong_order_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Target, shape: LlamaShape
) -> None:
    """q or k written to GGUF without the permutation of their rows."""
    adapter = random_adapter(shape, targets=[target])
    monkeypatch.setattr(gguf_writer, "interleave", lambda rows, heads: rows)
    with pytest.raises(ConversionFailed):
        round_trip(adapter, adapter, shape, tmp_path / "out", to="gguf")


def test_key_rows_by_query_heads_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """k permuted by the number of query heads, as if there were no grouping."""
    adapter = random_adapter(GQA, targets=[K])
    interleave = gguf_writer.interleave
    monkeypatch.setattr(gguf_writer, "interleave", lambda rows, heads: interleave(rows, GQA.heads))
    with pytest.raises(ConversionFailed):
        round_trip(adapter, adapter, GQA, tmp_path / "out", to="gguf")


@FORMATS
def test_swapped_modules_fail(tmp_path: Path, to: str) -> None:
    """Two modules of one width with each other's factors."""
    adapter = random_adapter(GQA)
    mutant = replace(adapter, pairs={**adapter.pairs, K: adapter.pairs[V], V: adapter.pairs[K]})
    with pytest.raises(ConversionFailed):
        round_trip(mutant, adapter, GQA, tmp_path / "out", to=to)


@FORMATS
@pytest.mark.parametrize("lost", ["in the file", "in the source"])
def test_coverage(tmp_path: Path, to: str, lost: str) -> None:
    """A module more or less than in the source fails, by name."""
    whole = random_adapter(GQA)
    part = replace(whole, pairs={t: p for t, p in whole.pairs.items() if t != V})
    written, source = (part, whole) if lost == "in the file" else (whole, part)
    with pytest.raises(ConversionFailed) as caught:
        round_trip(written, source, GQA, tmp_path / "out", to=to)
    assert caught.value.param == V.hf_path


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9), st.integers(20, 31))
def test_a_flipped_bit_fails(tmp_path_factory: pytest.TempPathFactory, place: int, bit: int) -> None:
    """One bit of one value, from the upper mantissa to the sign, anywhere in the data."""
    adapter = random_adapter(GQA, targets=[Q], ranks=(2,))
    path = tmp_path_factory.mktemp("verify") / "a.gguf"
    gguf_writer.write(adapter, GQA, path, provenance={})
    tensors = list(read_header(path).tensors.values())
    tensor = tensors[place % 2]
    data = bytearray(path.read_bytes())
    data[tensor.offset + place // 2 * 4 % tensor.nbytes + bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    with pytest.raises(AdapterError):
        verify_gguf(path, adapter, GQA)


def rebuilt(adapter: LoraAdapter) -> dict[Target, Factors]:
    return {target: (pair.a, pair.folded_b()) for target, pair in adapter.pairs.items()}


def test_a_delta_of_zero() -> None:
    """An untrained adapter (B is zero) passes with distance 0; anything in its place fails."""
    zero = replace(random_pair(np.random.default_rng(0), Q, GQA, rank=2, scale=1.0), b=np.zeros((64, 2), np.float32))
    adapter = LoraAdapter({Q: zero}, "0" * 64, None)
    assert compare(adapter, rebuilt(adapter)).worst == 0.0
    with pytest.raises(ConversionFailed):
        compare(adapter, rebuilt(random_adapter(GQA, targets=[Q], ranks=(2,))))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_delta_that_is_no_number(bad: float) -> None:
    """NaN compares with nothing; the gate must not take that for agreement."""
    adapter = random_adapter(GQA, targets=[Q])
    files = rebuilt(adapter)
    files[Q][1][3, 1] = bad
    with np.errstate(invalid="ignore"), pytest.raises(ConversionFailed):
        compare(adapter, files)


def test_the_report() -> None:
    """It counts the modules, names the worst one, and progress is told of each."""
    adapter = random_adapter(GQA, targets=[Q, K, V], scales=(1.0, 1.7, 1.0))
    seen: list[int] = []
    verification = compare(adapter, rebuilt(adapter), progress=seen.append)
    assert (verification.modules, verification.worst_target, seen) == (3, K.hf_path, [1, 2, 3])
    assert 0 < verification.worst < LIMIT


def spoiled(adapter: LoraAdapter, part: str) -> LoraAdapter:
    """One part of one module that has it is changed a little."""
    pairs, row_scales = dict(adapter.pairs), dict(adapter.row_scales)
    if part == "row_scale":
        target = next(iter(row_scales))
        row_scales[target] = row_scales[target] * np.float32(1.001)
    elif part == "bias":
        target = next(t for t, pair in pairs.items() if pair.bias is not None)
        pairs[target] = replace(pairs[target], bias=pairs[target].bias + np.float32(1e-3))
    elif part == "no bias":
        target = next(t for t, pair in pairs.items() if pair.bias is not None)
        pairs[target] = replace(pairs[target], bias=None)
    elif part == "no row scale":
        target = next(iter(row_scales))
        pairs[target] = replace(pairs[target], magnitude=None)
        del row_scales[target]
    else:
        target = Target(None, EMBEDDING if part == "embedding" else HEAD)
        pairs[target] = replace(pairs[target], a=pairs[target].a + np.float32(1e-4))
    return replace(adapter, pairs=pairs, row_scales=row_scales)


@pytest.mark.parametrize("part", ["row_scale", "bias", "no bias", "no row scale", "embedding", "head"])
def test_every_part_is_compared(tmp_path: Path, part: str) -> None:
    """A row scale, a bias, a factor of embedding or head that is another in the file, or not there."""
    adapter = full_adapter(GQA)
    assert round_trip(adapter, adapter, GQA, tmp_path / "whole", to="mapped") < LIMIT / 5
    with pytest.raises(ConversionFailed):
        round_trip(spoiled(adapter, part), adapter, GQA, tmp_path / "spoiled", to="mapped")


@pytest.mark.parametrize("to", ["gguf", "mlx"])
@pytest.mark.parametrize("module", [EMBEDDING, HEAD])
def test_both_ends_go_to_every_format(tmp_path: Path, to: str, module: LinearModule) -> None:
    """Embedding and head of an untied base, exactly; and another's factors are noticed."""
    adapter = random_adapter(GQA, targets=[Q, Target(None, module)], ranks=(3, 2), scales=(1 / 3,))
    other = random_adapter(GQA, targets=[Q, Target(None, module)], ranks=(3, 2), scales=(1 / 3,), seed=1)
    assert round_trip(adapter, adapter, GQA, tmp_path / "a", to=to) < LIMIT / 5
    with pytest.raises(ConversionFailed):
        round_trip(other, adapter, GQA, tmp_path / "b", to=to)


def test_mlx_magnitudes_are_compared(tmp_path: Path) -> None:
    """DoRA in MLX carries the magnitude itself; one that is another, or dropped with all of DoRA, fails."""
    adapter = dora_adapter(GQA, ranks=(2, 4))
    assert round_trip(adapter, adapter, GQA, tmp_path / "whole", to="mlx") < LIMIT / 5
    other = {t: replace(p, magnitude=p.magnitude * np.float32(1.001)) for t, p in adapter.pairs.items()}
    plain = {t: replace(p, magnitude=None) for t, p in adapter.pairs.items()}
    for number, pairs in enumerate((other, plain)):
        with pytest.raises(ConversionFailed):
            round_trip(replace(adapter, pairs=pairs), adapter, GQA, tmp_path / f"{number}", to="mlx")
