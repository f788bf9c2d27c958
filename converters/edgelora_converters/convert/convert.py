"""A conversion from end to end: read an adapter, write another form of it, reopen that, compare, publish.

Owns the order of these steps and the version of their outcome; each step is a module of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgelora_converters.convert.provenance import check_provenance, facts
from edgelora_converters.convert.source import check_declared, read_source
from edgelora_converters.convert.verify import Verification, verify_gguf, verify_mapped, verify_mlx, verify_peft
from edgelora_converters.gguf import writer as gguf_writer
from edgelora_converters.lora.adapter import LoraAdapter
from edgelora_converters.lora.completion import complete
from edgelora_converters.lora.suitability import check_architecture
from edgelora_converters.mapped import writer as mapped_writer
from edgelora_converters.mlx import writer as mlx_writer
from edgelora_converters.peft import writer as peft_writer
from edgelora_converters.peft.read_options import PLAIN, ReadOptions
from edgelora_models.errors import UsageError
from edgelora_models.fingerprint import BaseFingerprint
from edgelora_models.gguf_header import read_header
from edgelora_models.storage import staged

CONVERTER_VERSION = "2"
"""Part of every key under which a conversion is kept: raise it whenever the same source would give other bytes."""

Format = Literal["mapped", "gguf", "mlx", "peft"]
"""mapped is what edgelora's own kernel streams; the others are for others too."""

_WRITERS = {
    "mapped": mapped_writer.write,
    "gguf": gguf_writer.write,
    "mlx": mlx_writer.write,
    "peft": peft_writer.write,
}
_GATES = {"mapped": verify_mapped, "gguf": verify_gguf, "mlx": verify_mlx, "peft": verify_peft}


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """The outcome of a conversion, with its exactness."""

    format: Format
    modules: int
    rank: int
    """The largest of any module."""
    parameters: int
    worst: float
    """Largest relative Frobenius distance between a module's delta in the file and in the source."""
    worst_target: str
    nbytes: int
    """Size on disk."""
    memory_bytes: int
    """Bytes that the factors take in memory at run time: as stored where they are mapped, else as float32; MLX pads
    every pair to the largest rank."""
    source_digest: str
    treatment: str = ""
    """Description of the steps that made the source's factors plain ones; empty for most adapters."""


def convert(
    source: Path,
    out: Path,
    *,
    to: Format,
    base: BaseFingerprint,
    base_path: Path | None = None,
    reading: ReadOptions = PLAIN,
    any_architecture: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ConversionReport:
    """Convert the adapter `source` for `base` to `out`: a folder for MLX and PEFT, else a file.

    `source` is a PEFT folder, an MLX folder, or a GGUF adapter, ours or another's. `out` appears whole and verified, or
    not at all; an existing one is never replaced. `base_path` is where the base itself is, a GGUF file or a folder:
    some adapters take something of the base they run on (see `completion`). `reading` is what may be used beside
    `source`; its weights are those that DoRA's norms are of. `any_architecture` accepts an adapter that says it was
    trained on another architecture than Llama's. `progress` is called with steps done and in all, anew for
    the norms. Raises UsageError where `out` exists, AdapterError where the adapter is unsound or cannot be expressed
    exactly, BaseError for an unsound base, ConversionFailed where the written file is not the source, StorageError
    where the disk fails.
    """
    refuse_existing(out)
    if not any_architecture:
        check_declared(source)
    adapter = read_source(source, base.shape, reading=reading)
    if not any_architecture:
        check_architecture(adapter.base_model, adapter.metadata.get("base_class"))
    if base_path is not None:
        adapter = complete(adapter, base_path, to=to, norms=reading.weights, progress=progress)
    return write_verified(adapter, out, to=to, base=base, progress=progress)


def write_verified(
    adapter: LoraAdapter,
    out: Path,
    *,
    to: Format,
    base: BaseFingerprint,
    progress: Callable[[int, int], None] | None = None,
) -> ConversionReport:
    """Run the second half of `convert` for an adapter that is in memory. Raises as `convert` does."""
    refuse_existing(out)
    report = _Progress(progress, modules=len(adapter.pairs))
    report.done(1)
    with staged(out) as temporary:
        _WRITERS[to](adapter, base.shape, temporary, provenance=facts(adapter, base, converter=CONVERTER_VERSION))
        report.done(2)
        verification = _gate(temporary, adapter, to=to, base=base, progress=report.verified)
        nbytes, memory = _nbytes(temporary), _memory_bytes(temporary, adapter, to=to)
        refuse_existing(out)
    return _report(adapter, verification, to=to, nbytes=nbytes, memory_bytes=memory)


def prove(
    source: Path,
    converted: Path,
    *,
    to: Format,
    base: BaseFingerprint,
    base_path: Path | None = None,
    reading: ReadOptions = PLAIN,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Repeat the proof that `convert` made: `converted` says that it is of `source` and for `base`, and holds every
    module of it, exactly. DoRA's norms are of the base at `base_path`. Changes nothing. Raises what `convert` does.
    """
    adapter = read_source(source, base.shape, reading=reading)
    if base_path is not None:
        adapter = complete(adapter, base_path, to=to)
    report = _Progress(progress, modules=len(adapter.pairs))
    report.done(2)
    return _gate(converted, adapter, to=to, base=base, progress=report.verified)


def _gate(
    path: Path, adapter: LoraAdapter, *, to: Format, base: BaseFingerprint, progress: Callable[[int], None]
) -> Verification:
    check_provenance(path, adapter, base)
    return _GATES[to](path, adapter, base.shape, progress=progress)


class _Progress:
    """Counts steps of about one module's work each: read all, write all, then verify one by one."""

    def __init__(self, callback: Callable[[int, int], None] | None, *, modules: int) -> None:
        self._callback = callback
        self._modules = modules

    def done(self, passes: int) -> None:
        self._call(passes * self._modules)

    def verified(self, modules: int) -> None:
        self._call(2 * self._modules + modules)

    def _call(self, steps: int) -> None:
        if self._callback is not None:
            self._callback(steps, 3 * self._modules)


def _report(
    adapter: LoraAdapter, verification: Verification, *, to: Format, nbytes: int, memory_bytes: int
) -> ConversionReport:
    return ConversionReport(
        format=to,
        modules=verification.modules,
        rank=adapter.max_rank,
        parameters=adapter.parameters,
        worst=verification.worst,
        worst_target=verification.worst_target,
        nbytes=nbytes,
        memory_bytes=memory_bytes,
        source_digest=adapter.source_digest,
        treatment=adapter.metadata.get("treatment", ""),
    )


def _memory_bytes(path: Path, adapter: LoraAdapter, *, to: Format) -> int:
    if to == "mapped":
        return sum(tensor.nbytes for tensor in read_header(path).tensors.values())
    if to in ("gguf", "peft"):
        return 4 * adapter.parameters
    widths: int = sum(pair.a.shape[1] + pair.b.shape[0] for pair in adapter.pairs.values())
    return 4 * adapter.max_rank * widths


def refuse_existing(out: Path) -> None:
    """Raise UsageError where there is anything at `out`, a dangling link included."""
    if os.path.lexists(out):
        raise UsageError("exists", f"{out} exists already.", "Remove it, or choose another name.", param="out")


def _nbytes(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
