"""A Hugging Face Llama checkpoint to a base that runs: GGUF for llama.cpp, a folder for mlx-lm. Owns the order of work.

Check all, write, reopen, compare, rename: `out` appears whole and proven, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgelora_converters.base import mlx as base_mlx
from edgelora_converters.base import quantize as base_quantize
from edgelora_converters.base.checkpoint import EMBEDDING, HEAD, Checkpoint, open_checkpoint
from edgelora_converters.base.gguf import write_checkpoint
from edgelora_converters.base.plan import Quantization, plan_tensors
from edgelora_converters.base.verify import BaseVerification, verify_gguf
from edgelora_converters.convert.convert import refuse_existing
from edgelora_models.errors import UsageError
from edgelora_models.storage import check_space, scratch, staged

BASE_CONVERTER_VERSION = "1"
"""Raise it whenever the same checkpoint would give other bytes."""

Format = Literal["gguf", "mlx"]
Progress = Callable[[str, int, int], None]
"""Called with the present step's label, the amount done, and the total (bytes or tensors; 0 if unknown)."""

_DIRECT: Mapping[str, Quantization] = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0"}
_MIXES: Mapping[str, str] = {mix.lower(): mix for mix in base_quantize.FILE_TYPES}
TYPES: Mapping[Format, tuple[str, ...]] = {
    "gguf": (*_DIRECT, *_MIXES),
    "mlx": (*base_mlx.DTYPES, *base_mlx.BITS),
}
DEFAULT_TYPES: Mapping[Format, str] = {"gguf": "q4_k_m", "mlx": "4bit"}

_HEADER_BYTES = 64 << 20
"""Room for vocabulary, merges and padding; Llama-3.1's take 8 MB."""
_BITS: Mapping[str, float] = {"q6_k": 6.6, "q5_k_m": 5.8, "q4_k_m": 5.0, "q3_k_m": 4.1, "q2_k": 3.4}
"""Bits a weight in the layers takes, for the estimate of space; embedding and head take up to Q6_K's."""


@dataclass(frozen=True, slots=True)
class BaseReport:
    """The outcome of a base conversion, with its exactness."""

    format: Format
    type: str
    parameters: int
    nbytes: int
    """Size on disk."""
    proof: BaseVerification
    source_digest: str
    """sha256 hex over the checkpoint's weights, the same for one file and for shards."""


def convert_base(
    source: Path,
    out: Path,
    *,
    to: Format,
    kind: str | None = None,
    threads: int = 0,
    progress: Progress | None = None,
) -> BaseReport:
    """Convert the Hugging Face folder `source` to `out`: a GGUF file, or a folder for mlx-lm. An `out` that is there is
    never replaced. `kind` is one of TYPES[to], by default DEFAULT_TYPES[to]; `threads` are K-quants' (0: all cores).

    Raises UsageError where `out` exists or `kind` is not known for `to`; BaseError where the checkpoint is incomplete,
    asks for what a plain Llama has not, or cannot be expressed; StorageError, before anything is written where the disk
    has too little room.
    """
    kind = _kind(to, kind)
    refuse_existing(out)
    with open_checkpoint(source) as checkpoint, staged(out) as temporary:
        provenance = {"converter": "edgelora", "base_converter_version": BASE_CONVERTER_VERSION, "type": kind}
        if to == "mlx":
            check_space(out.parent, _mlx_bytes(checkpoint, kind), what=f"Writing {out}")
            proof, digest = base_mlx.write_mlx(
                checkpoint, temporary, kind=kind, provenance=provenance, progress=progress
            )
        else:
            check_space(out.parent, _gguf_bytes(checkpoint, kind), what=f"Writing {out}")
            digest = _write_gguf(checkpoint, temporary, kind, provenance, threads=threads, progress=progress)
            proof = verify_gguf(temporary, checkpoint, progress=_labelled(progress, "Checking"))
        nbytes = _size(temporary)
        refuse_existing(out)
        parameters = checkpoint.parameters
    return BaseReport(to, kind, parameters, nbytes, proof, digest)


def _kind(to: Format, kind: str | None) -> str:
    if kind is None:
        return DEFAULT_TYPES[to]
    if kind not in TYPES[to]:
        message = f"A base in {to.upper()} cannot be of type {kind[:40]!r}."
        raise UsageError("base_type", message, f"Choose one of {', '.join(TYPES[to])}.", param="type")
    return kind


def _write_gguf(
    checkpoint: Checkpoint,
    path: Path,
    kind: str,
    provenance: Mapping[str, str],
    *,
    threads: int,
    progress: Progress | None,
) -> str:
    """Write the file and return the source's digest."""
    if kind in _DIRECT:
        writing = _labelled(progress, "Writing weights")
        return write_checkpoint(checkpoint, path, quantization=_DIRECT[kind], provenance=provenance, progress=writing)
    with scratch(path) as unquantized:
        writing = _labelled(progress, "Preparing weights")
        digest = write_checkpoint(
            checkpoint, unquantized, quantization="source", provenance=provenance, progress=writing
        )
        quantizing = _labelled(progress, "Quantizing")
        base_quantize.quantize_file(unquantized, path, mix=_MIXES[kind], threads=threads, progress=quantizing)
    return digest


def _gguf_bytes(checkpoint: Checkpoint, kind: str) -> int:
    """Return the bytes that are on the disk at the same time, headers estimated."""
    planned = plan_tensors(checkpoint, _DIRECT.get(kind, "source"))
    nbytes = _HEADER_BYTES + sum(tensor.nbytes for tensor in planned)
    return nbytes if kind in _DIRECT else nbytes + _mix_bytes(checkpoint, kind)


def _mix_bytes(checkpoint: Checkpoint, kind: str) -> int:
    """Estimate the size of a K-quant mix: what the quantizer makes of each tensor is its own choice."""
    outer = sum(_elements(checkpoint, name) for name in (EMBEDDING, HEAD) if name in checkpoint.dtypes)
    bits = _BITS[kind] * (checkpoint.parameters - outer) + _BITS["q6_k"] * outer
    return _HEADER_BYTES + int(bits / 8)


def _mlx_bytes(checkpoint: Checkpoint, kind: str) -> int:
    bits = base_mlx.BITS[kind] + 1 if kind in base_mlx.BITS else 32 if kind == "f32" else 16
    return _HEADER_BYTES + checkpoint.parameters * bits // 8


def _elements(checkpoint: Checkpoint, name: str) -> int:
    rows, width = checkpoint.weights.shape(name)
    return rows * width


def _labelled(progress: Progress | None, label: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(label, done, total)


def _size(path: Path) -> int:
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
