"""Choosing the installed base to open, by the name and the backend that were requested.

A backend runs one format: llama.cpp a GGUF file, MLX an MLX folder. Where a base of the other format is named, another
form of the same model (one with the same fingerprint) stands in for it, if one is installed. Adapters know no
difference: they are for a fingerprint.
"""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from edgelora.core.errors import UsageError
from edgelora.store.bases.record import BUILTIN, BaseRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgelora.core.config import BackendChoice
    from edgelora.core.progress import Progress
    from edgelora.store.bases.registry import Bases

Format = Literal["gguf", "mlx"]
RUNS: Mapping[BackendChoice, Format] = {"mlx": "mlx", "llama.cpp": "gguf"}
"""The format that each backend runs."""


class FormatWords(NamedTuple):
    """How errors speak of a format."""

    name: str
    """Such as `a GGUF file`."""
    get: str
    """The commands that install a base of it."""


FORMATS: Mapping[Format, FormatWords] = {
    "gguf": FormatWords(
        "a GGUF file", "edgelora base pull NAME, or base convert CHECKPOINT --to gguf -o FILE and base add FILE"
    ),
    "mlx": FormatWords(
        "an MLX folder",
        "edgelora base pull NAME --format mlx, or base convert CHECKPOINT --to mlx -o DIR and base add DIR",
    ),
}


def choose_base(
    bases: Bases, name: str | None, backend: BackendChoice, *, progress: Progress | None = None
) -> BaseRecord:
    """Return the base to open for `name` (None: the chosen one), its file checked. It answers to the name that was
    given.

    `auto` opens what is named in its own format. Where nothing is named and this is Apple Silicon, an installed MLX
    form of the chosen base goes before the base itself. `mlx` makes the built-in base's MLX form where it is missing.
    Raises NotFound, BaseError, StorageError, UsageError(backend_base) where no form of it is for `backend`.
    """
    record = (bases.get(name) if name else bases.current()).check()
    format = _wanted_format(record, backend, named=name is not None)
    if record.format == format:
        return record
    other = _other_form(bases, record, format)
    if other is None and format == "mlx" and backend == "mlx" and record.origin == BUILTIN:
        from edgelora.store.bases.builtin_mlx import ensure_mlx

        other = ensure_mlx(bases, progress)
    if other is not None:
        return msgspec.structs.replace(other, aliases=tuple(dict.fromkeys((*other.aliases, record.name))))
    if backend == "auto":
        return record
    raise _no_form(record, backend)


def apple_silicon() -> bool:
    return sys.platform == "darwin" and platform.machine() == "arm64"


def _wanted_format(record: BaseRecord, backend: BackendChoice, *, named: bool) -> Format:
    if backend == "auto":
        return "mlx" if apple_silicon() and not named else record.format
    return RUNS[backend]


def _other_form(bases: Bases, record: BaseRecord, format: Format) -> BaseRecord | None:
    """Return the newest installed base of that format with the same fingerprint."""
    digest = record.identity.fingerprint.digest
    same = [other for other in bases.list() if other.format == format and other.identity.fingerprint.digest == digest]
    newest = max(same, key=lambda other: (other.created, other.name), default=None)
    return None if newest is None else newest.check()


def _no_form(record: BaseRecord, backend: BackendChoice) -> UsageError:
    wanted = RUNS[backend]
    own = next(name for name, format in RUNS.items() if format == record.format)
    message = (
        f"{record.name} is {FORMATS[record.format].name}, which the backend {backend} does not run, and no form of it "
        f"is installed that is {FORMATS[wanted].name}."
    )
    remedy = f"Install one ({FORMATS[wanted].get}), or take --backend {own}."
    return UsageError("backend_base", message, remedy, param="backend")
