"""The server under test in a process of its own: `python -m tests.system.fuzz.server FOLDER`. Tells what it
holds when asked.

On stdout one JSON object a line: first its port and its routes, then its state after each line that it reads.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import logging
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from starlette.applications import Starlette
from starlette.routing import Route

from edgelora.server.http import h11_protocol, upload_body
from edgelora.server.http.sockets import bind
from edgelora.server.run import EdgeServer, make_server
from tests.support.server import TEST_OPTIONS
from tests.support.service import FakeService

TOKEN = "sk-edgelora-fuzz-" + "0" * 43
ADAPTERS = {"medical-faq": "Hypertension is high blood pressure.", "letters": "abc", "a-long.name_1": "x"}
MAX_ERRORS = 20


class Errors(logging.Handler):
    """Whatever is logged as an error, exceptions that nobody caught included."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if len(self.lines) < MAX_ERRORS:
            self.lines.append(self.format(record)[-2000:])


def main() -> None:
    folder = Path(sys.argv[1])
    (folder / "token").write_text(TOKEN)
    errors = Errors()
    logging.getLogger().addHandler(errors)
    # What is bounded in seconds is bounded in tenths here: the fuzz waits for every one of them.
    h11_protocol.HEAD_SECONDS = upload_body.IDLE_SECONDS = 0.3
    options = replace(TEST_OPTIONS, secrets=folder, body_seconds=0.3, keepalive_seconds=0.05)
    with FakeService(folder, adapters=ADAPTERS, max_queue=256) as service:
        server = make_server(service, options, on_ready=lambda _: None)
        sockets = bind(options)
        port = sockets[0].getsockname()[1]
        _tell({"port": port, "routes": routes_of(server)})
        threading.Thread(target=_listen, args=(server, service, errors), name="fuzz-control", daemon=True).start()
        asyncio.run(server.serve(sockets))


def routes_of(server: EdgeServer) -> list[tuple[str, str]]:
    app = server.config.app
    assert isinstance(app, Starlette)
    found = [route for route in app.routes if isinstance(route, Route)]
    return sorted((method, route.path) for route in found for method in route.methods or ())


def _listen(server: EdgeServer, service: FakeService, errors: Errors) -> None:
    for _ in sys.stdin:
        _tell(_state(server, service, errors))
    server.stop()
    server.stop()


def _state(server: EdgeServer, service: FakeService, errors: Errors) -> dict[str, Any]:
    for noted in (service.prompts, service.samplings, service.clients, service.backend.history):
        noted.clear()  # the fakes' own notes of every request and step
    gc.collect()
    _give_back()
    stats, process = service.stats(), psutil.Process()
    return {
        "connections": len(server.server_state.connections),
        "tasks": len(server.server_state.tasks),
        "queued": stats.queued,
        "running": stats.running,
        "leases": sum(entry.leases for entry in stats.adapters),
        "threads": threading.active_count(),
        "descriptors": process.num_fds(),
        "resident": process.memory_info().rss,
        "errors": list(errors.lines),
    }


def _give_back() -> None:
    """Have the allocator return what is free: what is left is held, and not only kept for later by some thread."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc's


def _tell(fields: dict[str, Any]) -> None:
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    main()
