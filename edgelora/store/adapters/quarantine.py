"""Adapters that made the engine crash again and again: none of their requests is taken until somebody lifts that.

A file for each version in one folder, so that every process sees it at once and a new version of the name is free.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import msgspec

from edgelora.core.errors import AdapterError
from edgelora.core.files import valid_digest
from edgelora.core.request import AdapterRef
from edgelora_models.storage import discard, make_folder, storing, write_atomic

_log = logging.getLogger(__name__)


class Quarantined(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version that is not run any more."""

    name: str
    version: str
    """sha256 hex of its source."""
    why: str
    """Reason that the engine's process ended with, the last time."""
    since: float
    """Unix seconds."""


class Quarantine:
    """Below one folder, which is made on the first use. Thread-safe and process-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def check(self, ref: AdapterRef) -> None:
        """Raises AdapterError(code adapter_quarantined)."""
        record = self.find(ref.version)
        if record is not None:
            raise AdapterError(
                "adapter_quarantined",
                f"Adapter {ref} is not run any more: it crashed the engine ({record.why}).",
                f"Install a new version of it, or let it try again: edgelora release {ref.name}",
                param="model",
            )

    def find(self, version: str) -> Quarantined | None:
        """Return the record of a quarantined version; None where it may run."""
        if not valid_digest(version):
            return None
        try:
            data = self._path(version).read_bytes()
        except OSError:
            return None
        try:
            return msgspec.json.decode(data, type=Quarantined)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            # Better an adapter too few than a crash too many.
            _log.warning("%s is damaged: %s", self._path(version), error)
            return Quarantined("", version, "its record is damaged", 0.0)

    def add(self, ref: AdapterRef, why: str) -> None:
        """Put a version into quarantine, at once for every process. Raises StorageError."""
        record = Quarantined(ref.name, ref.version, why, time.time())
        with storing(self._folder):
            make_folder(self._folder)
            write_atomic(self._path(ref.version), msgspec.json.encode(record))

    def list(self) -> list[Quarantined]:
        """Return the records of all quarantined versions, by name. Raises StorageError."""
        with storing(self._folder):
            names = sorted(path.stem for path in self._folder.glob("*.json")) if self._folder.is_dir() else []
        return sorted(
            (record for name in names if (record := self.find(name))), key=lambda record: (record.name, record.version)
        )

    def lift(self, version: str) -> bool:
        """Let a version try again. False where it could."""
        if self.find(version) is None:
            return False
        discard(self._path(version))
        return True

    def _path(self, version: str) -> Path:
        return self._folder / f"{version}.json"
