"""A small file that others replace while this process runs: read again when it changed, never believed when broken."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from edgelora.core.errors import EdgeloraError
from edgelora_models.storage import storing

logger = logging.getLogger(__name__)

T = TypeVar("T")
_Stamp = tuple[int, int, int] | None


class ReloadingFile(Generic[T]):
    """`get` costs one stat. Not thread-safe: the server asks on its loop only."""

    def __init__(self, path: Path, parse: Callable[[bytes], T], *, absent: T) -> None:
        """Reads at once. Raises StorageError, and what `parse` raises."""
        self._path = path
        self._parse = parse
        self._absent = absent
        self._stamp = self._look()
        self._value = self._read()

    def get(self) -> T:
        """Return the file's present content, or the previous content while the file cannot be read: a broken file opens
        nothing."""
        try:
            stamp = self._look()
            if stamp != self._stamp:
                # The stamp is older than what is read: a change in between is seen the next time.
                self._stamp = stamp
                self._value = self._read()
        except EdgeloraError as error:
            logger.error("%s What it said before still holds.", error)
        return self._value

    def _look(self) -> _Stamp:
        with storing(self._path):
            try:
                stat = self._path.stat()
            except FileNotFoundError:
                return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _read(self) -> T:
        with storing(self._path):
            try:
                data = self._path.read_bytes()
            except FileNotFoundError:
                return self._absent
        return self._parse(data)
