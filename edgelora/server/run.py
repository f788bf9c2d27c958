"""Running the application: sockets, uvicorn, signals, and a graceful shutdown.

After the first SIGTERM or SIGINT the server accepts no connections, and running generations continue for up to
`drain_seconds`. Then, or at the second signal, they end with an error that clients can read. The third ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Generator
from types import FrameType

import uvicorn
from uvicorn.server import HANDLED_SIGNALS

from edgelora.runtime.interface import Runtime
from edgelora.server.app import build_app
from edgelora.server.http.drain import Drain
from edgelora.server.http.h11_protocol import JsonH11Protocol
from edgelora.server.http.options import ServerOptions
from edgelora.server.http.sockets import bind, close_all, urls

MAX_HEAD_BYTES = 64 << 10
"""Maximum size of a request line with its headers."""
KEEP_ALIVE_SECONDS = 120
"""Seconds that an idle connection is kept. The pools of Go and reqwest keep theirs for 90 s, and a client that uses a
connection just as the server closes it gets an error; so the client has to close first.
"""
ERROR_FRAME_SECONDS = 2.0
"""Seconds for sending error frames once running generations were cut."""
LEAVE_SECONDS = 1.0
"""Seconds after the third signal in which the process may still end by itself."""

OnReady = Callable[[list[str]], None]
"""Called once with the URLs of the server, when it accepts requests."""


class EdgeServer(uvicorn.Server):
    """A uvicorn server that drains, and that does not raise signals again when it has ended."""

    def __init__(self, config: uvicorn.Config, *, drain: Drain, drain_seconds: float, on_ready: OnReady) -> None:
        super().__init__(config)
        self.ended_by: int | None = None
        self._drain = drain
        self._drain_seconds = drain_seconds
        self._on_ready = on_ready
        self._loop: asyncio.AbstractEventLoop | None = None

    def stop(self) -> None:
        """Shut down as a signal does: the first call drains, the second cuts, the third ends at once. Thread-safe."""
        if not self.should_exit:
            self.should_exit = True
        elif not self._drain.cut.is_set() and self._loop is not None:
            self._loop.call_soon_threadsafe(self._drain.cut.set)
        else:
            self.force_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        listening = urls(sockets or [])
        await super().startup(sockets)
        if self.started:
            self._on_ready(listening)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._drain.begin()
        deadline = asyncio.get_running_loop().call_later(self._drain_seconds, self._drain.cut.set)
        try:
            await super().shutdown(sockets)
        finally:
            deadline.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.ended_by = sig
        self.stop()
        if self.force_exit:
            # A thread that works on a client's text cannot be interrupted, and Python waits for it at its end.
            leave = threading.Timer(LEAVE_SECONDS, os._exit, (128 + sig,))
            leave.daemon = True
            leave.start()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        # uvicorn raises the signals again after its shutdown. Here the caller decides what a finished drain means.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {sig: signal.signal(sig, self.handle_exit) for sig in HANDLED_SIGNALS}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)


def make_server(runtime: Runtime, options: ServerOptions, *, on_ready: OnReady) -> EdgeServer:
    drain = Drain()
    config = uvicorn.Config(
        build_app(runtime, options, drain),
        http=JsonH11Protocol,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(options.drain_seconds + ERROR_FRAME_SECONDS)),
    )
    return EdgeServer(config, drain=drain, drain_seconds=options.drain_seconds, on_ready=on_ready)


def run(
    runtime: Runtime, options: ServerOptions, *, on_ready: OnReady, meanwhile: Callable[[], None] | None = None
) -> int | None:
    """Serve until a signal, and return its number, or None if `stop` was called. The caller closes the runtime.

    `meanwhile` runs in a thread once the server accepts requests; its exception ends the server and is raised here.
    Raises UsageError for a missing key or a bad host or origin, and Busy (`port_in_use`), before anything is served.
    """
    failures: list[Exception] = []

    def work() -> None:
        try:
            if meanwhile is not None:
                meanwhile()
        except Exception as error:
            if not server.should_exit:  # A shutdown may make it fail, which is no error.
                failures.append(error)
                server.stop()

    def ready(urls: list[str]) -> None:
        on_ready(urls)
        threading.Thread(target=work, name="edgelora-meanwhile", daemon=True).start()

    server = make_server(runtime, options, on_ready=ready)
    sockets = bind(options)
    try:
        asyncio.run(server.serve(sockets))
    finally:
        close_all(sockets)
    if failures:
        raise failures[0]
    return server.ended_by
