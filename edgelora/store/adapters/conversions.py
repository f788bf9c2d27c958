"""Converted adapters on disk: finding one, and making one in a workspace. Owns their folders, never a manifest.

A conversion can always be made again from the kept source, so anything odd about one means: not there.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec

from edgelora.core.errors import AdapterUnsupported, EdgeloraError
from edgelora.core.files import file_digest, inside, workspace
from edgelora.store.adapters.layout import AdapterLayout
from edgelora.store.adapters.manifest import Conversion, StoredFile, decode_conversion, encode
from edgelora_models.storage import make_folder, move_folder, storing, write_atomic

if TYPE_CHECKING:
    from edgelora.core.request import AdapterFormat
    from edgelora.store.adapters.manifest import Version
    from edgelora.store.bases.record import BaseRecord
    from edgelora_converters.convert.convert import ConversionReport
    from edgelora_converters.lora.adapter import LoraAdapter
    from edgelora_models.fingerprint import BaseFingerprint

logger = logging.getLogger(__name__)

DESCRIPTION = "conversion.json"
MAIN = {"mapped": "adapter.lora", "gguf": "adapter.gguf", "mlx": "adapter"}
"""Names of the converted file by format; for MLX it is a folder."""
USUAL: Mapping[str, AdapterFormat] = {"gguf": "mapped", "mlx": "mlx"}
"""By a base's format, what its backend wants as a rule; another one is made when it is asked for."""
_FOR_MLX_TOO: AdapterFormat = "mapped"
"""Fallback for an MLX base: edgelora's own layout carries what mlx-lm's folder cannot (aLoRA, lora_bias, DoRA of some
modules alone, the head of a tied base), and the MLX backend reads it as well."""


@dataclass(frozen=True, slots=True)
class Converted:
    """A conversion in place."""

    folder: Path
    conversion: Conversion

    @property
    def path(self) -> Path:
        return self.folder / MAIN[self.conversion.format]


@dataclass(frozen=True, slots=True)
class ConversionTarget:
    """The format and base that a version is converted for."""

    to: AdapterFormat
    base: BaseFingerprint
    path: Path
    """The base itself."""
    weights: str = ""
    """The base's weights_key, where the conversion depends on its weights."""

    @classmethod
    def of(cls, version: Version, to: AdapterFormat, base: BaseRecord) -> Self:
        weights = base.weights_key if version.needs_base else ""
        return cls(to, base.identity.fingerprint, base.path, weights)


def find(layout: AdapterLayout, digest: str, goal: ConversionTarget) -> Converted | None:
    """Return the conversion of a version, by the present converter; None where it has to be made. Takes no lock."""
    folder = _folder(layout, digest, goal)
    conversion = read(folder)
    if conversion is None or conversion.source != digest or not _suits(conversion, goal):
        return None
    return Converted(folder, conversion)


def _suits(conversion: Conversion, goal: ConversionTarget) -> bool:
    return conversion.base_fingerprint == goal.base.digest and conversion.weights == goal.weights


def every(layout: AdapterLayout, digest: str) -> tuple[Converted, ...]:
    """Return all usable conversions of a version, of any base, format and converter."""
    folders = sorted(layout.versions_conversions(digest).glob("*"))
    return tuple(Converted(folder, conversion) for folder in folders if (conversion := read(folder)) is not None)


def read(folder: Path) -> Conversion | None:
    """Read a folder's description; None unless every file it names is there in full length."""
    try:
        conversion = decode_conversion((folder / DESCRIPTION).read_bytes())
        sizes = [stored_path(folder, file).stat().st_size for file in conversion.files]
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        logger.warning("%s is damaged and will be made again: %s", folder, error)
        return None
    return conversion if sizes == [file.nbytes for file in conversion.files] else None


def is_outdated(folder: Path) -> bool:
    """Whether a conversion's folder is of an older converter, or damaged: it would be made again in another place."""
    from edgelora_converters.convert.convert import CONVERTER_VERSION

    conversion = read(folder)
    return conversion is None or _order(conversion.converter) < _order(CONVERTER_VERSION)


def _order(version: str) -> int:
    """The number of a converter version; what is no number is not known to be older."""
    return int(version) if version.isdecimal() else sys.maxsize


def stored_path(folder: Path, file: StoredFile) -> Path:
    return inside(folder, *file.name.split("/"))


def make(
    adapter: LoraAdapter, out: Path, *, goal: ConversionTarget, progress: Callable[[int, int], None] | None
) -> Conversion:
    """Write an adapter that was read into the new folder `out`, verified, description included. Raises AdapterError."""
    from edgelora_converters.convert.convert import CONVERTER_VERSION

    make_folder(out)
    form, report = _convert(adapter, out, goal, progress)
    with storing(out):
        files = tuple(_stored(path, out) for path in sorted(out.rglob("*")) if path.is_file())
    conversion = Conversion(
        format=form,
        source=adapter.source_digest,
        base_fingerprint=goal.base.digest,
        converter=str(CONVERTER_VERSION),
        files=files,
        memory_bytes=report.memory_bytes,
        worst_error=report.worst,
        weights=goal.weights,
    )
    write_atomic(out / DESCRIPTION, encode(conversion))
    return conversion


def _convert(
    adapter: LoraAdapter, out: Path, goal: ConversionTarget, progress: Callable[[int, int], None] | None
) -> tuple[AdapterFormat, ConversionReport]:
    """Return the format that was written, and the report of it."""
    from edgelora_converters.convert.convert import write_verified
    from edgelora_converters.lora.completion import complete

    def write(to: AdapterFormat) -> tuple[AdapterFormat, ConversionReport]:
        whole = complete(adapter, goal.path, to=to, progress=progress)
        return to, write_verified(whole, out / MAIN[to], to=to, base=goal.base, progress=progress)

    try:
        return write(goal.to)
    except AdapterUnsupported:
        if goal.to != "mlx":
            raise
        with suppress(EdgeloraError):  # Where that fails too, what mlx-lm cannot carry is the reason to give.
            return write(_FOR_MLX_TOO)
        raise


def publish(layout: AdapterLayout, made: Path, conversion: Conversion, goal: ConversionTarget) -> Converted:
    """Move a made conversion to its place, unless a good one is there. The caller holds the commit lock."""
    folder = _folder(layout, conversion.source, goal)
    present = read(folder)
    if present is not None and _suits(present, goal):
        return Converted(folder, present)
    make_folder(folder.parent)
    drop(layout, folder)
    with storing(folder):
        move_folder(made, folder)
        _protect(folder / MAIN[conversion.format])
    return Converted(folder, conversion)


def drop(layout: AdapterLayout, folder: Path) -> bool:
    """Take a folder away at once, then delete it, so that no reader meets half of it. False where it has to stay.

    Who has a file of it mapped keeps what is mapped. Windows moves no such folder: it stays until `gc` finds it free.
    """
    if not folder.exists():
        return True
    with workspace(layout.tmp) as away, storing(folder):
        try:
            folder.rename(away / "folder")
        except PermissionError as error:
            logger.warning("%s is not used any more and could not be deleted yet: %s", folder, error)
            return False
    return True


def _folder(layout: AdapterLayout, digest: str, goal: ConversionTarget) -> Path:
    from edgelora_converters.convert.convert import CONVERTER_VERSION

    variant = f"{goal.to}-{goal.base.digest[:16]}-{CONVERTER_VERSION}{goal.weights and '-'}{goal.weights}"
    return inside(layout.versions_conversions(digest), variant)


def _protect(path: Path) -> None:
    """Make a mapped file read-only: a program that cut it by mistake would end the processes that run it."""
    if os.name == "posix" and path.is_file():
        path.chmod(0o444)


def _stored(path: Path, folder: Path) -> StoredFile:
    return StoredFile(path.relative_to(folder).as_posix(), file_digest(path), path.stat().st_size)
