"""Merging adapters into a base for good: W' = W + w s B A. Owns the order of steps and what cannot be merged.

The result is a base like the one it was made from, in the same types, to be run without the adapters. How far its
stored weights are from the exact ones is measured on the finished file, reopened, and reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgelora_converters.convert.convert import CONVERTER_VERSION, refuse_existing
from edgelora_converters.errors import ConversionFailed
from edgelora_converters.lora.adapter import LoraPair, Target
from edgelora_converters.lora.combine import Part
from edgelora_converters.lora.fit import check_fits
from edgelora_converters.lora.token_rows import with_token_pairs
from edgelora_converters.merge import gguf as merge_gguf
from edgelora_converters.merge import hf as merge_hf
from edgelora_converters.merge.rows import Changes, ErrorTally, changes, merged_blocks, weight_name
from edgelora_converters.weights.base import BaseWeights
from edgelora_converters.weights.open import open_base_weights
from edgelora_models.errors import AdapterUnsupported, UsageError
from edgelora_models.identity import identify_folder, identify_gguf
from edgelora_models.modules import EMBEDDING
from edgelora_models.shape import LlamaShape
from edgelora_models.storage import check_space, staged

_ACT_APART = "Let it act as an adapter instead (edgelora run --adapter NAME)."
ROUNDING: Mapping[str, float] = {"F64": 1e-7, "F32": 1e-6, "F16": 1e-3, "BF16": 8e-3}
"""The largest error a matrix in a trained type may have: what one rounding costs, with room."""
QUANTIZED = 0.5
"""The same for quantized types: 2 bits cost about 0.3; rows in a wrong order, or of another matrix, 1 and more."""


@dataclass(frozen=True, slots=True)
class MergedModule:
    """A matrix of the merged base compared with the exact sum. See merge.rows.ErrorTally."""

    path: str
    error: float
    noise: float
    kept: float


@dataclass(frozen=True, slots=True)
class MergeReport:
    modules: tuple[MergedModule, ...]
    error: float
    """Error of all merged matrices together: ||stored - exact|| / ||exact||, Frobenius."""
    noise: float
    """The same beside the change: ||stored - exact|| / ||exact - base||."""
    kept: float
    """Share of the change that survived rounding, along its own direction; 1.0 is all of it."""
    nbytes: int
    """Size of the weights written."""


def merge(
    parts: Sequence[Part],
    base: Path,
    out: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> MergeReport:
    """Merge `parts` into `base`, a Hugging Face folder or a GGUF file, and write the result to `out`, of the same kind.

    `out` appears whole and checked, or not at all; an existing one is never replaced. What was merged is noted in the
    metadata of its weights. `progress` is called with bytes done and in all. Raises UsageError where `out` exists or
    nothing acts; AdapterUnsupported with the code merge_alora, merge_bias, merge_tied, merge_dora_embedding, merge_type
    or merge_overflow; AdapterIncompatible, BaseError, ConversionFailed, StorageError.
    """
    refuse_existing(out)
    _check_space(out, base)
    kind = merge_hf if base.is_dir() else merge_gguf
    with open_base_weights(base) as weights:
        parts = [replace(part, adapter=with_token_pairs(part.adapter, weights)) for part in parts]
        _check_parts(parts, weights.llama)
        acting = changes(parts)
        if not acting:
            raise UsageError("merge_nothing", "There is nothing to merge.", "Give a weight that is not 0.")
        meter = _Meter(progress, weights_size(base))
        with staged(out) as temporary:
            kind.write(base, temporary, weights, acting, facts=_facts(parts, base), progress=meter.add)
            kind.check(base, temporary)
            tallies = _compare(temporary, weights, acting, meter)
            nbytes = weights_size(temporary)
            meter.end()
            refuse_existing(out)
    return _report(tallies, nbytes)


def weights_size(path: Path) -> int:
    """Return the bytes of a base's weights."""
    if not path.is_dir():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.glob("*.safetensors"))


def _facts(parts: Sequence[Part], base: Path) -> Mapping[str, str]:
    """Provenance: what was merged into what, by which converter."""
    identity = identify_folder(base) if base.is_dir() else identify_gguf(base)
    return {
        "adapters": " ".join(f"{part.name}:{part.weight!r}" for part in parts),
        "base_fingerprint": identity.fingerprint.digest,
        "converter_version": CONVERTER_VERSION,
        "source_digests": " ".join(part.adapter.source_digest for part in parts),
    }


def _check_space(out: Path, base: Path) -> None:
    """Before hours of work, not instead of care. Raises StorageError."""
    try:
        needed = weights_size(base)
    except OSError:
        return  # whoever opens the weights says what is wrong
    check_space(out.parent, needed, what="The merged base")


class _Meter:
    def __init__(self, callback: Callable[[int, int], None] | None, nbytes: int) -> None:
        self._callback = callback
        self._done, self._total = 0, 2 * nbytes

    def add(self, nbytes: int) -> None:
        self._done = min(self._done + nbytes, self._total)
        if self._callback is not None:
            self._callback(self._done, self._total)

    def end(self) -> None:
        self.add(self._total)


def _check_parts(parts: Sequence[Part], shape: LlamaShape) -> None:
    for part in parts:
        if part.adapter.invocation:
            message = f"{part.name} is an aLoRA: it acts from its invocation on, and a merged base would act always."
            raise AdapterUnsupported("merge_alora", message, _ACT_APART, param=part.name)
        check_fits(part.adapter, shape)
        for target, pair in part.adapter.pairs.items():
            _check_pair(part.name, target, pair, shape)


def _check_pair(name: str, target: Target, pair: LoraPair, shape: LlamaShape) -> None:
    if pair.bias is not None and pair.bias.any():
        code, why = "merge_bias", "has a bias of lora_B, for which a Llama's modules have no place"
    elif target.layer is None and shape.tied:
        code, why = "merge_tied", "is the embedding or the head, which are one matrix in this base"
    elif target.module == EMBEDDING and pair.magnitude is not None:
        code, why = "merge_dora_embedding", "is the embedding, whose DoRA is over its columns"
    else:
        return
    raise AdapterUnsupported(code, f"{target.hf_path} of {name} {why}.", _ACT_APART, param=target.hf_path)


def _compare(out: Path, weights: BaseWeights, acting: Changes, meter: _Meter) -> Mapping[Target, ErrorTally]:
    """Read the finished file again, and compare every merged matrix with the exact sum, computed anew."""
    tallies = {target: ErrorTally() for target in acting}
    with open_base_weights(out) as merged:
        for target, tally in tallies.items():
            for block in merged_blocks(weights, target, acting[target]):
                stop = block.start + len(block.before)
                tally.add(block, merged.rows(weight_name(target), block.start, stop))
                meter.add(block.before.nbytes)
            limit = max(ROUNDING[kind] for kind in merged.precision.split(", ")) if merged.exact else QUANTIZED
            if not tally.error <= limit:  # NaN included
                message = f"{target.hf_path} is {tally.error:.1e} off in the merged base; {limit:.0e} is allowed."
                raise ConversionFailed(
                    "merge_mismatch", message, "Nothing was kept. Merge again.", param=target.hf_path
                )
    return tallies


def _report(tallies: Mapping[Target, ErrorTally], nbytes: int) -> MergeReport:
    total = ErrorTally()
    for tally in tallies.values():
        total += tally
    modules = tuple(MergedModule(t.hf_path, tally.error, tally.noise, tally.kept) for t, tally in tallies.items())
    return MergeReport(modules, total.error, total.noise, total.kept, nbytes)
