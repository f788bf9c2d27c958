"""The output of the engine's process: the last lines in memory, for crash reports, and a file of bounded size."""

from __future__ import annotations

import logging
import threading
from collections import deque
from io import RawIOBase
from pathlib import Path
from typing import IO

_log = logging.getLogger(__name__)

FILE_BYTES = 512 << 10
"""Maximum bytes of the file.

A full file is renamed to *.old, replacing the previous one, and a new file is begun: at most twice this is on disk.
"""
LAST_LINES = 40
LINE_BYTES = 2000


class OutputLog:
    """The last lines and the file. Thread-safe. Writes no file without a path."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._file: IO[bytes] | None = None

    def read(self, pipe: IO[bytes] | RawIOBase) -> None:
        """Read a process's stderr to its end. Never raises, because a process with an unread stderr would block."""
        with pipe:
            rest = b""
            while data := pipe.read(1 << 16):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._take(line)
                rest = rest[-LINE_BYTES:]
            if rest:
                self._take(rest)

    @property
    def path(self) -> Path | None:
        """Path of the file as long as it can be written, otherwise None."""
        return self._path

    def last(self) -> list[str]:
        with self._lock:
            return list(self._last)

    def note(self, line: str) -> None:
        """Add a line of this process between those of the other."""
        self._take(line.encode())

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file = self._path = None

    def _take(self, line: bytes) -> None:
        line = line[:LINE_BYTES]
        with self._lock:
            self._last.append(line.decode("utf-8", "replace"))
            if self._path is None:
                return
            try:
                self._write(self._path, line)
            except OSError as error:  # The disk is full, or the folder is gone: what matters is in memory.
                _log.warning("%s cannot be written: %s", self._path, error)
                self._path = None

    def _write(self, path: Path, line: bytes) -> None:
        if self._file is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
        if self._file.tell() > FILE_BYTES:
            self._file.close()
            path.replace(path.with_suffix(".old"))
            self._file = path.open("ab", buffering=0)
        self._file.write(line + b"\n")
