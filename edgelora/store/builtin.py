"""Puts the built-in base and its adapters into the registry and the store, once for each version of their content.

What the user removes stays removed, and an adapter of the user's under the same name is left alone: a marker says what
was installed. Owns that marker; the files are the models package's, the conversion the store's.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from edgelora.core.errors import StorageError
from edgelora.core.files import file_digest, locked
from edgelora.store.bases.record import BUILTIN
from edgelora_models.storage import storing, write_atomic

if TYPE_CHECKING:
    from edgelora.core.progress import Progress
    from edgelora.store.adapters.store import Store
    from edgelora.store.bases.record import BaseRecord
    from edgelora.store.bases.registry import Bases

logger = logging.getLogger(__name__)

LABEL = "Setting up the built-in adapters"
TIMEOUT = 600.0
"""Seconds to wait for another process that is installing the same."""


class Source(Protocol):
    """The interface of `edgelora_models.builtin`."""

    @property
    def BASE_NAME(self) -> str: ...

    def base_gguf(self) -> Path: ...

    def adapters(self) -> Mapping[str, Path]: ...


class _Marker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Record of what has been installed so far, including what was removed since."""

    signature: str = ""
    """Signature of the source files; while it is the same, there is nothing to install."""
    bases: frozenset[str] = frozenset()
    """sha256 of each base file."""
    adapters: frozenset[str] = frozenset()
    """Source digest of each adapter."""


def ensure_builtin(
    bases: Bases, store: Store, progress: Progress | None = None, *, source: Source | None = None
) -> None:
    """Install what is new. Cheap where nothing is; safe for two processes at once. Raises StorageError."""
    if source is None:
        from edgelora_models import builtin

        source = builtin
    try:
        signature = _signature(source)
    except FileNotFoundError as error:
        logger.warning("this installation comes without its built-in base or adapters: %s is missing", error.filename)
        return
    data = bases.directories.data
    path = data / "builtin.json"
    if _read(path).signature == signature:
        return
    busy = "Another process is still setting up the built-in adapters."
    with locked(data / "locks" / "builtin.lock", timeout=TIMEOUT, busy=busy):
        marker = _read(path)
        if marker.signature != signature:
            marker = _install(bases, store, source, marker=marker, progress=progress)
            marker = msgspec.structs.replace(marker, signature=signature)
            write_atomic(path, msgspec.json.encode(marker, order="sorted") + b"\n")


def _install(bases: Bases, store: Store, source: Source, *, marker: _Marker, progress: Progress | None) -> _Marker:
    """Install what the marker does not know, and return the marker for what is there now."""
    steps = _Steps(progress, 1 + len(source.adapters()))
    base, marker = _install_base(bases, source, marker)
    steps.done()
    for name, folder in source.adapters().items():
        if base is not None:
            marker = _install_adapter(store, base, marker, name=name, folder=folder)
        steps.done()
    return marker


def _install_base(bases: Bases, source: Source, marker: _Marker) -> tuple[BaseRecord | None, _Marker]:
    """Return the built-in base's record; None where the user removed it or has another base of that name."""
    name, path = source.BASE_NAME, source.base_gguf()
    with storing(path):
        digest = file_digest(path)
    installed = next((record for record in bases.list() if record.name == name), None)
    if (installed is None and digest in marker.bases) or (installed is not None and installed.origin != BUILTIN):
        return None, marker
    record = bases.add(path, name, origin=BUILTIN)  # again where it is there: a new environment is a new path
    if bases.chosen() is None:
        bases.use(name)
    return record, msgspec.structs.replace(marker, bases=marker.bases | {digest})


def _install_adapter(store: Store, base: BaseRecord, marker: _Marker, *, name: str, folder: Path) -> _Marker:
    from edgelora_converters.peft.folder import source_digest

    digest = source_digest(folder)
    if digest in marker.adapters:
        return marker
    if name in store.names() and store.get(name).latest.digest not in marker.adapters | {digest}:
        return marker  # the user's own
    store.add(folder, name=name, base=base)
    return msgspec.structs.replace(marker, adapters=marker.adapters | {digest})


class _Steps:
    """Reports one step after another."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def done(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(LABEL, self._done, self._total)


def _signature(source: Source) -> str:
    """sha256 hex over path, size and time of every source file: a new installation or version has another."""
    files = [source.base_gguf()]
    for folder in source.adapters().values():
        files += sorted(path for path in folder.iterdir() if path.is_file())
    stats = [(str(path), path.stat()) for path in files]
    text = json.dumps([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path) -> _Marker:
    """Return the marker; an empty one where it is missing or damaged, which costs one more look at everything.

    Raises StorageError where it cannot be read.
    """
    try:
        with storing(path):
            return msgspec.json.decode(path.read_bytes(), type=_Marker)
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return _Marker()
        raise
    except (msgspec.DecodeError, UnicodeDecodeError):
        logger.warning("%s is damaged; the built-in adapters are set up again", path)
        return _Marker()
