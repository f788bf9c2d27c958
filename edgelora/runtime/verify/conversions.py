"""Proofs of conversions, repeated: of what is installed, of a converted file, of an adapter nobody has converted yet.

Owns which files are held against which source; the proof itself is `edgelora_converters.convert.convert.prove`. Changes
nothing but that an installed adapter without any conversion is converted for the chosen base, as its first use would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgelora.core.errors import AdapterCorrupt, AdapterUnsupported, EdgeloraError
from edgelora.core.files import file_digest, workspace
from edgelora.store.adapters.conversions import MAIN, stored_path
from edgelora.store.library import KnownBase

if TYPE_CHECKING:
    from edgelora.core.progress import Progress
    from edgelora.runtime.verify.run_base import RunBase
    from edgelora.runtime.verify.subjects import Subject
    from edgelora.store.adapters.conversions import Converted
    from edgelora.store.adapters.manifest import Conversion
    from edgelora.store.bases.record import BaseRecord
    from edgelora.store.library import Library
    from edgelora_converters.peft.read_options import ReadOptions

FORMATS: tuple[Literal["mapped", "gguf", "mlx", "peft"], ...] = ("mapped", "gguf", "mlx", "peft")


@dataclass(frozen=True, slots=True)
class ConversionCheck:
    """The result of checking one conversion."""

    format: str
    base: str
    """The installed base's name, or the beginning of a fingerprint."""
    path: Path | None = None
    """Path of the conversion; None if it was made only for the check."""
    modules: int = 0
    worst: float = 0.0
    """Largest relative distance of a module's delta from the source's."""
    worst_module: str = ""
    error: EdgeloraError | None = None
    """Error that makes the conversion unusable."""
    skipped: str = ""
    """Reason why it could not be checked or does not exist in this format; not a failure."""


def prove(
    library: Library, subject: Subject, base: KnownBase, reading: ReadOptions, progress: Progress | None
) -> Iterator[ConversionCheck]:
    """All that there is to prove of `subject`; what is not installed is taken for an adapter of `base`. `reading` is
    what its source may be read with."""
    if subject.installed is not None:
        manifest, version = subject.installed
        if not library.store.conversions(version):
            library.store.ref(f"{manifest.name}@{version.number}", library.bases.current(), progress=progress)
        for converted in library.store.conversions(version):
            yield _proven(library, converted, subject.source, reading, progress)
    elif subject.converted is not None:
        yield prove_file(subject.converted, subject.source, base, reading, progress)
    else:
        yield from prove_source(subject.source, base, reading, library.store.root / "tmp", progress)


def prove_source(
    source: Path, base: KnownBase, reading: ReadOptions, scratch: Path, progress: Progress | None
) -> Iterator[ConversionCheck]:
    """Check a conversion to every format, made in the folder `scratch` and thrown away. Raises AdapterError
    where none is there.
    """
    from edgelora_converters.convert.convert import write_verified
    from edgelora_converters.convert.source import read_source
    from edgelora_converters.lora.completion import complete

    adapter, fingerprint = read_source(source, base.fingerprint.shape, reading=reading), base.fingerprint
    short = fingerprint.digest[:12]
    for to in FORMATS:
        with workspace(scratch) as work:
            try:
                completed = complete(adapter, base.path, to=to)
                report = write_verified(completed, work / "out", to=to, base=fingerprint, progress=_told(progress, to))
            except AdapterUnsupported as error:
                yield ConversionCheck(to, short, skipped=error.what)
            except EdgeloraError as error:
                yield ConversionCheck(to, short, error=error)
            else:
                yield ConversionCheck(to, short, None, report.modules, report.worst, report.worst_target)


def prove_file(
    path: Path, source: Path, base: KnownBase, reading: ReadOptions, progress: Progress | None
) -> ConversionCheck:
    """Check a converted file or folder against the adapter it was made of."""
    from edgelora_converters.convert import convert
    from edgelora_converters.convert.source import adapter_kind

    to, fingerprint, reported = adapter_kind(path), base.fingerprint, _told(progress, adapter_kind(path))
    short = fingerprint.digest[:12]
    try:
        verification = convert.prove(
            source, path, to=to, base=fingerprint, base_path=base.path, reading=reading, progress=reported
        )
    except EdgeloraError as error:
        return ConversionCheck(to, short, path, error=error)
    return ConversionCheck(to, short, path, verification.modules, verification.worst, verification.worst_target)


@contextmanager
def for_base(
    library: Library, subject: Subject, base: RunBase, reading: ReadOptions, progress: Progress | None
) -> Iterator[Path]:
    """The subject as a file that is loaded on `base`: the one that is named or installed, or one made for a while."""
    from edgelora_converters.convert.convert import convert
    from edgelora_converters.convert.source import adapter_kind

    if subject.converted is not None and adapter_kind(subject.converted) in ("gguf", "mapped"):
        yield subject.converted
    elif subject.installed is not None and base.record is not None:
        manifest, version = subject.installed
        yield library.store.ref(f"{manifest.name}@{version.number}", base.record, progress=progress).path
    else:
        with workspace(library.store.root / "tmp") as work:
            out = work / MAIN["mapped"]
            reported = _told(progress, "mapped")
            on = base.fingerprint
            convert(subject.source, out, to="mapped", base=on, base_path=base.gguf, reading=reading, progress=reported)
            yield out


def _proven(
    library: Library, converted: Converted, source: Path, reading: ReadOptions, progress: Progress | None
) -> ConversionCheck:
    from edgelora_converters.convert.convert import CONVERTER_VERSION

    conversion = converted.conversion
    record = next((record for record in library.bases.list() if _is_of(conversion, record)), None)
    if record is None:
        short = conversion.base_fingerprint[:12]
        return ConversionCheck(conversion.format, short, converted.path, skipped="its base is not installed any more")
    if conversion.converter != CONVERTER_VERSION:
        return ConversionCheck(
            conversion.format, record.name, converted.path, skipped="an older edgelora made it: not used"
        )
    try:
        _check_files(converted)
    except EdgeloraError as error:
        return ConversionCheck(conversion.format, record.name, converted.path, error=error)
    base = KnownBase(record.path, record.identity.fingerprint, record)
    return replace(prove_file(converted.path, source, base, reading, progress), base=record.name)


def _is_of(conversion: Conversion, record: BaseRecord) -> bool:
    """Return whether it was made for this base, and where it depends on the weights, with this very file of it."""
    same = record.identity.fingerprint.digest == conversion.base_fingerprint
    return same and conversion.weights in ("", record.weights_key)


def _check_files(converted: Converted) -> None:
    """Every file is the one that was written."""
    for file in converted.conversion.files:
        path = stored_path(converted.folder, file)
        if file_digest(path) != file.digest:
            message = f"{path} is not what was written: its bytes have changed."
            raise AdapterCorrupt(
                "conversion_changed", message, "Delete the file: it is made again when it is next used."
            )


def _told(progress: Progress | None, to: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(f"Proving {to}", done, total)
