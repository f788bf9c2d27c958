"""The servers that run on this machine. Each writes a small file with its address, and removes it when it ends.

A file is stale if its process is gone or its pid belongs to another one. Readers delete stale files.
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
"""Maximum seconds between two readings of a process's start time."""


@dataclass(frozen=True, slots=True)
class ServerInstance:
    """A running server."""

    url: str
    """The address that it listens on, such as `http://127.0.0.1:8321`."""
    pid: int
    process_began: float
    """Start time of the process in Unix seconds. With the pid it identifies one process."""


@contextmanager
def present(state: Path, url: str) -> Iterator[None]:
    """Announce this server in the state folder while the body runs. A failure to write is only logged."""
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
    """Return the running servers, the longest running first."""
    instances = []
    for path in sorted(_folder(state).glob("*.json")):
        instance = _read(path)
        if instance is None or not _alive(instance):
            discard(path)
        else:
            instances.append(instance)
    return sorted(instances, key=lambda instance: instance.process_began)


def _folder(state: Path) -> Path:
    return state / "servers"


def _read(path: Path) -> ServerInstance | None:
    try:
        value = json.loads(path.read_bytes())
        return ServerInstance(str(value["url"]), int(value["pid"]), float(value["process_began"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _alive(instance: ServerInstance) -> bool:
    import psutil

    try:
        process = psutil.Process(instance.pid)
        same = abs(process.create_time() - instance.process_began) < _SAME_START
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
