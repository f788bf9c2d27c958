"""The gate behind every conversion of a base: the written weights, reopened, against the checkpoint's. Owns the bounds.

Where nothing had to be rounded every bit must be the same; where something had, the distance is measured and reported,
and must be one that rounding can explain (rows in a wrong order are off by 1.4).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.base.checkpoint import Checkpoint
from edgelora_converters.tensors.dtypes import same_bits
from edgelora_converters.tensors.safetensors_reader import ITEMSIZE
from edgelora_converters.weights.base import row_blocks
from edgelora_converters.weights.gguf import GgufWeights, gguf_names
from edgelora_models.errors import BaseError
from edgelora_models.gguf_header import read_header
from edgelora_models.gguf_types import GGML_TYPES
from edgelora_models.identity import BaseIdentity, identify_folder, identify_gguf

Blocks = Iterable[tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Rows as written and as in the source, float32, in turn."""

_BOUNDS: Mapping[str, float] = {
    "F16": 2e-3,
    "BF16": 4e-3,
    **dict.fromkeys(("Q8_0", "8-bit"), 0.03),
    **dict.fromkeys(("Q6_K", "6-bit"), 0.1),
    **dict.fromkeys(("Q5_0", "Q5_1", "Q5_K"), 0.2),
    **dict.fromkeys(("Q4_0", "Q4_1", "Q4_K", "4-bit"), 0.4),
    **dict.fromkeys(("Q3_K", "3-bit"), 0.6),
    "Q2_K": 0.9,
}
"""Largest relative Frobenius distance of a tensor stored so, with room for weights that are hard to quantize.

F32 is not there: whatever the source is stored in, it must come out of float32 bit for bit."""


@dataclass(frozen=True, slots=True)
class BaseVerification:
    """The distance between a written base and its checkpoint, relative, in the Frobenius norm."""

    tensors: int
    exact: int
    """Tensors that are the source's bit for bit."""
    overall: float
    """Distance over all weights together."""
    worst: float
    worst_tensor: str
    kinds: Mapping[str, int]
    """Number of tensors stored in each type."""


def verify_gguf(
    path: Path, checkpoint: Checkpoint, *, progress: Callable[[int, int], None] | None = None
) -> BaseVerification:
    """Compare the GGUF base at `path` with its checkpoint: identity, rope, and every weight.

    Raises BaseError (`base_conversion_failed`) where it is not the same base, or a weight is further off than its type
    explains.
    """
    check_identity(identify_gguf(path), checkpoint)
    types = read_header(path).tensors
    comparison = Comparison(checkpoint, progress)
    with GgufWeights(path) as written:
        _check_rope(written, checkpoint)
        for name, at in gguf_names(written.llama).items():
            source = checkpoint.weights
            if len(written.shape(name)) == 1:
                blocks: Blocks = [(written.read(name), source.read(name))]
            else:
                blocks = ((rows, source.rows(name, n, n + len(rows))) for n, rows in row_blocks(written, name))
            comparison.add(name, GGML_TYPES[types[at.name].type].name, blocks)
    return comparison.proof()


def check_identity(written: BaseIdentity, checkpoint: Checkpoint) -> None:
    """Check that the written base is the source's: shapes, every token, the chat template. Raises BaseError."""
    source = identify_folder(checkpoint.folder)
    if (written.fingerprint, written.context_length) != (source.fingerprint, source.context_length):
        raise failed("shapes, tokens or chat template are not the source's")


def failed(what: str, param: str | None = None) -> BaseError:
    """Return the error for a written base that differs from its checkpoint, which is no fault of the checkpoint."""
    remedy = "Nothing was kept. Choose a type with more bits; if that fails too, check the disk."
    return BaseError("base_conversion_failed", f"The written base is not its source: {what}.", remedy, param=param)


def _check_rope(written: GgufWeights, checkpoint: Checkpoint) -> None:
    config = checkpoint.config
    factors = config.rope.factors(config.shape.head_dim)
    stored = written.rope_factors()
    if (None if factors is None else tuple(factors.tolist())) != stored:
        raise failed("its rope factors differ")
    expected = {"rope.freq_base": config.rope.theta, "attention.layer_norm_rms_epsilon": config.norm_epsilon}
    for key, value in expected.items():
        if written.metadata.get(f"llama.{key}") != float(np.float32(value)):
            raise failed(f"its {key} differs")


@dataclass(slots=True)
class Comparison:
    """Adds up distances, tensor by tensor."""

    checkpoint: Checkpoint
    progress: Callable[[int, int], None] | None = None
    _kinds: Counter[str] = field(default_factory=Counter)
    _exact: int = 0
    _worst: tuple[float, str] = (0.0, "")
    _squares: tuple[float, float] = (0.0, 0.0)
    _done: int = 0
    _total: int = field(init=False)

    def __post_init__(self) -> None:
        self._total = self.checkpoint.nbytes

    def add(self, name: str, kind: str, blocks: Blocks) -> None:
        """Compare one tensor, stored as `kind`. Raises BaseError."""
        error = size = 0.0
        same = True
        for written, source in blocks:
            same = same and same_bits(written, source)
            error += _square(written - source)
            size += _square(source)
            self._report(name, written.size)
        if not same:
            self._check(name, kind, error, size)
        self._exact += same
        self._kinds[kind] += 1
        self._worst = max(self._worst, (_ratio(error, size), name))
        self._squares = (self._squares[0] + error, self._squares[1] + size)

    def proof(self) -> BaseVerification:
        """Return the verification of everything added. Raises BaseError if a weight is missing."""
        if sum(self._kinds.values()) != len(self.checkpoint.weights.names):
            raise failed("weights are missing")
        kinds = dict(sorted(self._kinds.items()))
        return BaseVerification(
            sum(kinds.values()), self._exact, _ratio(*self._squares), self._worst[0], self._worst[1], kinds
        )

    def _check(self, name: str, kind: str, error: float, size: float) -> None:
        distance = _ratio(error, size)
        if kind in ("F32", self.checkpoint.dtypes[name]) or not distance <= _BOUNDS[kind]:
            raise failed(f"{name} is {distance:.1e} off as {kind}", name)

    def _report(self, name: str, elements: int) -> None:
        self._done += elements * ITEMSIZE[self.checkpoint.dtypes[name]]
        if self.progress is not None:
            self.progress(self._done, self._total)


def _square(values: NDArray[np.float32]) -> float:
    """Return the sum of squares in float32, whose rounding is far below the reported distances."""
    return float(np.vdot(values, values))


def _ratio(error: float, size: float) -> float:
    return math.sqrt(error / size) if size else math.inf if error else 0.0
