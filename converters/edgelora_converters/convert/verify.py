"""The gate behind every conversion: the written file, read back, must be the adapter that was read.

Each module's delta is rebuilt from the file and compared with scale * B @ A of the source in float64. Owns the
comparison and its limit; reading the formats is `gguf.adapter_reader` and `mlx.writer`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.errors import ConversionFailed
from edgelora_converters.gguf import adapter_reader as gguf_adapter_reader
from edgelora_converters.lora.adapter import LoraAdapter, LoraPair, Target
from edgelora_converters.mapped import reader as mapped_reader
from edgelora_converters.mapped import source as mapped_source
from edgelora_converters.mapped.mapping import release
from edgelora_converters.mlx import writer as mlx_writer
from edgelora_converters.peft import reader as peft_reader
from edgelora_converters.peft.writer import sayable
from edgelora_converters.tensors.blas_threads import one_blas_thread
from edgelora_converters.tensors.dtypes import same_bits
from edgelora_converters.tensors.lazy import LazyMapping
from edgelora_converters.tensors.row_order import deinterleave
from edgelora_models.shape import LlamaShape

LIMIT = 1e-6
"""Largest relative Frobenius distance of a module's delta; one rounding to float32 costs about 3e-8."""

_REMEDY = "Nothing was published. Convert again; if it fails again, report it with the adapter's configuration."

# A delta of this norm is lost beside any float32 activation; below it only the absolute distance counts.
_VANISHING = 1e-24

Factors = tuple[NDArray[Any], NDArray[Any]]
"""Floating: a [rank, in] and b [out, rank] in Hugging Face row order, the whole scale in b: delta = b @ a."""


Vector = NDArray[Any]


class Rebuilt(NamedTuple):
    """All of one module as a file has it, floating, in Hugging Face row order."""

    a: NDArray[Any]
    """[rank, in]"""
    b: NDArray[Any]
    """[out, rank], the whole scale in it."""
    bias: NDArray[Any] | None = None
    """[out], the scale in it."""
    row_scale: NDArray[Any] | None = None
    """[out]: DoRA's g."""
    magnitude: NDArray[Any] | None = None
    """[out]: DoRA's m, where the runtime takes the norms itself."""


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of the gate: the largest relative distance over all modules, and the module it is of."""

    modules: int
    worst: float
    worst_target: str


def verify_gguf(
    path: Path, adapter: LoraAdapter, shape: LlamaShape, *, progress: Callable[[int], None] | None = None
) -> Verification:
    """Compare a written GGUF adapter with its source; see `compare`. Raises AdapterError where it cannot be read."""
    _check_invocation(gguf_adapter_reader.read_invocation(path), adapter)
    with gguf_adapter_reader.opened(path, shape) as stored:

        def rebuilt(target: Target) -> Factors:
            a, b = stored[target]
            return a, deinterleave(b, target.module.rotary_heads(shape))

        return compare(adapter, LazyMapping(stored, rebuilt), progress=progress)


def verify_mlx(
    folder: Path, adapter: LoraAdapter, shape: LlamaShape, *, progress: Callable[[int], None] | None = None
) -> Verification:
    """Compare a written MLX adapter with its source; see `compare`. Raises AdapterError where it cannot be read."""
    with mlx_writer.opened(folder, shape) as stored:

        def rebuilt(target: Target) -> Rebuilt:
            module = stored[target]
            return Rebuilt(module.a.T, module.b.T, magnitude=module.m)

        return compare(adapter, LazyMapping(stored, rebuilt), progress=progress)


def verify_mapped(
    path: Path, adapter: LoraAdapter, shape: LlamaShape, *, progress: Callable[[int], None] | None = None
) -> Verification:
    """Compare a written mapped adapter with its source: every factor bit for bit, then as `compare` does, the scale
    (which is rounded to float32) included. Raises AdapterError where it cannot be read."""
    mapped = mapped_reader.read(path, shape)

    def rebuilt(target: Target) -> Rebuilt:
        pair = mapped_source.pair_of(target, mapped.pairs[target], shape)
        row_scale = mapped_source.row_scale_of(target, mapped.pairs[target], shape)
        release(mapped.data)
        # The magnitude is in the row scales.
        if not _same(pair, replace(adapter.pairs[target], magnitude=None)):
            raise _mismatch(target, "is not the source's, bit for bit")
        return _of_pair(pair)._replace(row_scale=row_scale)

    return compare(adapter, LazyMapping(mapped.pairs, rebuilt), progress=progress)


def verify_peft(
    folder: Path, adapter: LoraAdapter, shape: LlamaShape, *, progress: Callable[[int], None] | None = None
) -> Verification:
    """Compare a written PEFT folder with its source: factors, magnitudes and biases bit for bit, then as `compare`
    does. Raises AdapterError where it cannot be read."""
    with peft_reader.opened(folder, shape) as written:
        _check_invocation(written.config.invocation, adapter)
        for target in adapter.token_rows.keys() | written.token_rows.keys():
            ours, theirs = adapter.token_rows.get(target), written.token_rows.get(target)
            if ours is None or theirs is None or ours.tokens != theirs.tokens or not same_bits(ours.rows, theirs.rows):
                raise _mismatch(target, "has other trained tokens than the source's, bit for bit")

        def rebuilt(target: Target) -> Rebuilt:
            pair = written.pairs[target]
            if not _same(pair, sayable(target, adapter.pairs[target])):
                raise _mismatch(target, "is not the source's, bit for bit")
            return _of_pair(pair)

        return compare(adapter, LazyMapping(written.pairs, rebuilt), progress=progress)


def _of_pair(pair: LoraPair) -> Rebuilt:
    bias = None if pair.bias is None else pair.bias.astype(np.float64) * pair.scale
    return Rebuilt(pair.a, pair.b.astype(np.float64) * pair.scale, bias, magnitude=pair.magnitude)


def _same(pair: LoraPair, other: LoraPair) -> bool:
    """Bit for bit; a bias of zeros is the same as none."""
    if not (same_bits(pair.a, other.a) and same_bits(pair.b, other.b)):
        return False
    none = np.zeros(len(pair.b), np.float32)
    return all(
        np.array_equal(none if mine is None else mine, none if yours is None else yours)
        for mine, yours in ((pair.magnitude, other.magnitude), (pair.bias, other.bias))
    )


def _check_invocation(written: tuple[int, ...], adapter: LoraAdapter) -> None:
    if written != adapter.invocation:
        message = f"The converted file has the invocation {list(written)}; the source's is {list(adapter.invocation)}."
        raise ConversionFailed("conversion_mismatch", message, _REMEDY)


def compare(
    adapter: LoraAdapter, rebuilt: Mapping[Target, Rebuilt | Factors], *, progress: Callable[[int], None] | None = None
) -> Verification:
    """Check that `rebuilt` has the adapter's modules and, within LIMIT, their deltas, biases and DoRA's row scales or
    magnitudes, and no others; ConversionFailed otherwise.

    `progress` is called with the number of modules done.
    """
    _check_coverage(adapter, rebuilt)
    with one_blas_thread():
        return _compare(adapter, rebuilt, progress)


def _compare(
    adapter: LoraAdapter, rebuilt: Mapping[Target, Rebuilt | Factors], progress: Callable[[int], None] | None
) -> Verification:
    worst, worst_target = 0.0, ""
    for done, (target, pair) in enumerate(adapter.pairs.items(), start=1):
        parts = Rebuilt(*rebuilt[target])
        distance = max(
            relative_distance(pair, (parts.a, parts.b)), _rows_distance(target, adapter, parts), key=_badness
        )
        if not distance <= LIMIT:  # NaN included
            raise _mismatch(target, f"differs from the source by {distance:.1e} (relative; {LIMIT:.0e} is allowed)")
        if distance >= worst:
            worst, worst_target = distance, target.hf_path
        if progress is not None:
            progress(done)
    return Verification(len(adapter.pairs), worst, worst_target)


def _badness(distance: float) -> float:
    return math.inf if math.isnan(distance) else distance


def _rows_distance(target: Target, adapter: LoraAdapter, written: Rebuilt) -> float:
    """Return the largest relative distance of what stands by rows: bias, row scales, magnitude."""
    pair = adapter.pairs[target]
    if pair.magnitude is not None and written.row_scale is None and written.magnitude is None:
        raise _mismatch(target, "has lost its magnitude")
    bias = None if pair.bias is None else pair.bias.astype(np.float64) * pair.scale
    compared: list[tuple[Vector | None, Vector | None]] = [(bias, written.bias)]
    if written.row_scale is not None:
        compared.append((adapter.row_scales.get(target), written.row_scale))
    if written.magnitude is not None:
        compared.append((pair.magnitude, written.magnitude))
    return max((_vector_distance(target, source, rows) for source, rows in compared), key=_badness)


def _vector_distance(target: Target, source: Vector | None, written: Vector | None) -> float:
    """Return the relative distance of two vectors; None stands for a vector of zeros."""
    if source is None and written is None:
        return 0.0
    if source is not None and written is not None and source.shape != written.shape:
        raise _mismatch(target, f"has {written.shape} rows and not {source.shape}")
    expected = np.zeros(1) if source is None else source.astype(np.float64)
    rows = np.zeros(1) if written is None else written.astype(np.float64)
    return float(np.linalg.norm(rows - expected)) / max(float(np.linalg.norm(expected)), _VANISHING)


def relative_distance(pair: LoraPair, rebuilt: Factors) -> float:
    """||rebuilt delta - source delta|| / ||source delta||, Frobenius, without forming either delta.

    With dB = b' - s b and dA = a' - a, the difference is [dB, b'] @ [a; dA]: its factors are small where the files
    agree, so nothing cancels. Where a' is a, as every exact file has it, that is dB @ a.
    """
    a, b = pair.a.astype(np.float64), np.multiply(pair.b, pair.scale, dtype=np.float64)
    own = rebuilt[0][: pair.rank]
    if np.array_equal(own, pair.a) and not rebuilt[0][pair.rank :].any():
        square = a @ a.T
        # numpy widens the float32 of a file as it subtracts.
        return _norm(rebuilt[1][:, : pair.rank] - b, square) / max(_norm(b, square), _VANISHING)
    new_a, new_b = (factor.astype(np.float64) for factor in rebuilt)
    rank = max(a.shape[0], new_a.shape[0])
    a, b, new_a, new_b = _rows(a, rank), _rows(b.T, rank).T, _rows(new_a, rank), _rows(new_b.T, rank).T
    difference = _product_norm(np.hstack([new_b - b, new_b]), np.vstack([a, new_a - a]))
    return difference / max(_product_norm(b, a), _VANISHING)


def _rows(factor: NDArray[np.float64], rank: int) -> NDArray[np.float64]:
    """Return `factor` with zero rows up to `rank`: the same delta."""
    return np.pad(factor, ((0, rank - factor.shape[0]), (0, 0)))


def _norm(left: NDArray[np.float64], square: NDArray[np.float64]) -> float:
    """Frobenius norm of left @ right, `square` being right @ right.T."""
    total = float(np.sum((left.T @ left) * square))
    return math.sqrt(max(total, 0.0)) if math.isfinite(total) else math.nan


def _product_norm(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Frobenius norm of left @ right from their small Gram matrices: ||LR||^2 = trace(L'L RR')."""
    return _norm(left, right @ right.T)


def _check_coverage(adapter: LoraAdapter, rebuilt: Mapping[Target, Any]) -> None:
    if odd := sorted(adapter.pairs.keys() ^ rebuilt.keys(), key=lambda target: target.hf_path):
        where = "source" if odd[0] in adapter.pairs else "converted file"
        raise _mismatch(odd[0], f"is in the {where} alone")


def _mismatch(target: Target, how: str) -> ConversionFailed:
    return ConversionFailed("conversion_mismatch", f"{target.hf_path} {how}.", _REMEDY, param=target.hf_path)
