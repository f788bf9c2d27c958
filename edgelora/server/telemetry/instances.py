"""Which servers run on this machine: each writes a small file that says where it listens, and removes it at its end.

A file whose process is gone, or is another one by now, is what a killed server left: it is taken away when it is met.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from edgelora.core.errors import StorageError
from edgelora_models.storage import discard, write_atomic

_log = logging.getLogger(__name__)
_SAME_START = 1.0
"""Seconds by which two readings of when a process began may differ."""


@dataclass(frozen=True, slots=True)
class ServerInstance:
    """A running server."""

    url: str
    """Where it answers: `http://127.0.0.1:8321`."""
    pid: int
    process_began: float
    """Unix seconds, as the system tells it: with the pid it names one process."""


@contextmanager
def present(state: Path, url: str) -> Iterator[None]:
    """Be found in the state folder for as long as the body runs. One that cannot be written is only logged."""
    import psutil

    own = ServerInstance(url, os.getpid(), psutil.Process().create_time())
    path = _folder(state) / f"{own.pid}.json"
    try:
        write_atomic(path, json.dumps(asdict(own)).encode())
    except StorageError as error:
        _log.warning("`edgelora ps` will not find this server by itself: %s", error)
    try:
        yield
    finally:
        discard(path)


def running(state: Path) -> list[ServerInstance]:
    """The servers that run, longest first."""
    found = []
    for path in sorted(_folder(state).glob("*.json")):
        one = _read(path)
        if one is None or not _alive(one):
            discard(path)
        else:
            found.append(one)
    return sorted(found, key=lambda one: one.process_began)


def _folder(state: Path) -> Path:
    return state / "servers"


def _read(path: Path) -> ServerInstance | None:
    try:
        value = json.loads(path.read_bytes())
        return ServerInstance(str(value["url"]), int(value["pid"]), float(value["process_began"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _alive(one: ServerInstance) -> bool:
    import psutil

    try:
        process = psutil.Process(one.pid)
        same = abs(process.create_time() - one.process_began) < _SAME_START
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
