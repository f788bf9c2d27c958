"""The base that an adapter is converted for outside the store. Its shape is enough: it need not be on this machine.

Named by the user, it is an installed base, a model file or folder, a folder with nothing but a config.json, or one of
the catalogue. Otherwise it is the one that the adapter says it was trained on, if that is known, or the chosen base.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgelora.core.errors import AdapterIncompatible, NotFound
from edgelora_models import catalogue
from edgelora_models.checkpoints import checkpoint
from edgelora_models.hf_config import CONFIG_NAME, read_shape
from edgelora_models.identity import shape_fingerprint

if TYPE_CHECKING:
    from edgelora.store.bases.record import BaseRecord
    from edgelora.store.library import Library
    from edgelora_models.fingerprint import BaseFingerprint


@dataclass(frozen=True, slots=True)
class ConversionBase:
    name: str
    fingerprint: BaseFingerprint
    path: Path | None
    """The model itself; None where only its shape is known."""
    installed: bool


def find(library: Library, name: str | None, source: Path) -> ConversionBase:
    """Return the base that `name` means; for None, the one that the adapter at `source` is for.

    Raises NotFound with near names, AdapterError for a source whose configuration cannot be read, BaseError.
    """
    from edgelora_converters.convert.source import declared_base

    if name is not None:
        return _named(library, name)
    trained_on, _ = declared_base(source)
    entry = catalogue.find_shape(trained_on)
    record = _installed(library, trained_on, entry)
    if record is None and entry is not None:
        return _of_the_catalogue(entry)
    return _of_record((record or library.bases.current()).check())


@contextmanager
def naming(base: ConversionBase) -> Iterator[None]:
    """Say which base an adapter does not fit, and how to name another; the converter knows shapes only."""
    try:
        yield
    except AdapterIncompatible as error:
        if error.code == "other_architecture":
            raise
        known = ", ".join(entry.name for entry in catalogue.ENTRIES)
        remedy = (
            "Name the base that it was trained on (--base): an installed one (edgelora base ls), a folder with its "
            f"config.json, or one of the catalogue ({known}), which `edgelora base pull NAME` downloads."
        )
        message = f"The adapter does not fit the base {base.name}: {error.what}"
        raise AdapterIncompatible(error.code, message, remedy, param=error.param) from error


def _named(library: Library, name: str) -> ConversionBase:
    path = Path(name)
    if name not in library.bases.names() and path.is_dir() and _is_bare(path):
        return ConversionBase(path.name, shape_fingerprint(read_shape(path)), None, installed=False)
    try:
        known = library.find_base(name)
    except NotFound:
        try:
            return _of_the_catalogue(catalogue.find(name))
        except NotFound:
            pass
        raise
    if known.record is not None:
        return _of_record(known.record)
    return ConversionBase(path.name, known.fingerprint, known.path, installed=False)


def _is_bare(folder: Path) -> bool:
    """Whether a folder has a model's configuration and no weights."""
    return (folder / CONFIG_NAME).is_file() and not any(folder.glob("*.safetensors"))


def _installed(library: Library, trained_on: str | None, entry: catalogue.Entry | None) -> BaseRecord | None:
    """Return the installed base of that checkpoint or, if it is the chosen one, of that shape."""
    if (wanted := checkpoint(trained_on)) is None:
        return None
    records = library.bases.list()
    chosen = next((record for record in records if record.name == library.bases.chosen()), None)
    if chosen is not None and entry is not None and chosen.identity.fingerprint.shape == entry.shape:
        return chosen
    return next((record for record in records if checkpoint(record.checkpoint) == wanted), None)


def _of_record(record: BaseRecord) -> ConversionBase:
    return ConversionBase(record.name, record.identity.fingerprint, record.path, installed=True)


def _of_the_catalogue(entry: catalogue.Entry) -> ConversionBase:
    return ConversionBase(entry.name, shape_fingerprint(entry.shape), None, installed=False)
