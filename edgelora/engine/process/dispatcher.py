"""The engine's side of the pipe: commands to the engine, and its results as events. Owns no pipe and no process."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial
from pathlib import Path

import msgspec

from edgelora.core.errors import EdgeloraError
from edgelora.core.events import Event, Failed, Finished, TextDelta
from edgelora.engine.engine import Engine
from edgelora.engine.prefix_cache.cache import PrefixWrite
from edgelora.engine.process import messages
from edgelora.engine.process.error_codec import fault_of
from edgelora.engine.process.instrumented_backend import InstrumentedBackend
from edgelora.engine.process.messages import Phase
from edgelora.engine.process.pipes import Outbox
from edgelora.engine.process.stats_totals import NOTHING, without_same
from edgelora.engine.stream import Stream
from edgelora.store.prefixes.layout import StoredPrefix

_log = logging.getLogger(__name__)


class ForwardedStream(Stream):
    """A stream whose events are read in the other process."""

    def __init__(self, request_id: str, cancel: Callable[[str], None], outbox: Outbox) -> None:
        super().__init__(request_id, cancel)
        self._outbox = outbox

    def put(self, event: Event) -> None:
        self._outbox.put(_output(self.request_id, event))

    def place(self) -> None:
        if not self.placed:
            super().place()
            self._outbox.put(messages.Placed(self.request_id))


class Dispatcher:
    """The reading thread calls `obey`, the engine calls `trying` and `stream`, any thread calls `tell_stats`."""

    def __init__(self, outbox: Outbox) -> None:
        self.closed = threading.Event()
        self._outbox = outbox
        self._engine: Engine | None = None
        self._backend: InstrumentedBackend | None = None
        self._told = NOTHING
        self._lock = threading.Lock()
        self._telling = threading.Lock()
        self._compiling: queue.SimpleQueue[messages.Submit] = queue.SimpleQueue()
        self._compiled: dict[str, bool] = {}
        """Requests being compiled in `_compile`; True if cancelled meanwhile."""
        threading.Thread(target=self._compile, name="edgelora-constraints", daemon=True).start()

    def open(self, engine: Engine, backend: InstrumentedBackend) -> None:
        """Start to obey: the engine is there."""
        self._backend, self._engine = backend, engine
        self._outbox.put(messages.Ready(engine.capabilities, engine.kv_identity))
        # An idle engine has no changes to report, so its limits are reported here.
        self.tell_stats()

    def obey(self, commands: Sequence[messages.Command]) -> None:
        for command in commands:
            match command:
                case messages.Submit() if command.request.sampling.constraint is not None:
                    with self._lock:
                        self._compiled[command.request.id] = False
                    self._compiling.put(command)
                case messages.Submit():
                    self._submit(command)
                case messages.Cancel(id):
                    self._cancel(id)
                case messages.Preload():
                    self._fetch(command)
                case messages.Ping():
                    self._outbox.put(self._pong())
                case messages.Close():
                    threading.Thread(target=self._close, args=(command,), daemon=True).start()

    def stream(self, request_id: str, cancel: Callable[[str], None]) -> ForwardedStream:
        return ForwardedStream(request_id, cancel, self._outbox)

    def trying(self, phase: Phase, paths: tuple[Path, ...]) -> None:
        self._outbox.send(messages.FirstUse(phase, paths))

    def tell_stats(self) -> None:
        engine = self._engine
        if engine is None:
            return
        with self._telling:
            stats = engine.stats()
            if stats != self._told:
                self._outbox.put(messages.Stats(*without_same(stats, self._told)))
                self._told = stats

    def _compile(self) -> None:
        """Compile constraints on a separate thread, so that slow ones delay no cancel on the reading thread."""
        while True:
            command = self._compiling.get()
            self._submit(command)
            with self._lock:
                cancelled = self._compiled.pop(command.request.id, False)
            if cancelled:
                self._known().cancel(command.request.id)

    def _cancel(self, request_id: str) -> None:
        with self._lock:
            if request_id in self._compiled:
                self._compiled[request_id] = True
        self._known().cancel(request_id)

    def _submit(self, command: messages.Submit) -> None:
        request, keep_spec = command.request, command.keep
        keep = None if keep_spec is None else PrefixWrite(keep_spec.key, keep_spec.tokens, keep_spec.name)
        if keep is not None:
            keep.done.add_done_callback(partial(self._kept, request.id))
        try:
            self._known().submit(request, keep=keep)
        except Exception as error:
            self._outbox.put(messages.RequestFailed(request.id, fault_of(error)))

    def _kept(self, request_id: str, done: Future[StoredPrefix]) -> None:
        try:
            message = messages.PrefixWritten(request_id, done.result())
        except CancelledError:
            message = messages.PrefixWritten(request_id, None)
        except Exception as error:
            message = messages.PrefixWritten(request_id, None, fault_of(error))
        self._outbox.put(message)

    def _fetch(self, command: messages.Preload) -> None:
        def tell(done: Future[bool]) -> None:
            error = done.exception()
            outcome = done.result() if error is None else fault_of(error)
            self._outbox.put(messages.Preloaded(command.number, outcome))

        try:
            done = self._known().fetch(command.ref, pin=command.pin, instead_of=command.instead_of)
        except EdgeloraError as error:
            self._outbox.put(messages.Preloaded(command.number, fault_of(error)))
        else:
            done.add_done_callback(tell)

    def _pong(self) -> messages.Pong:
        backend, engine = self._backend, self._engine
        if backend is None or engine is None:
            return messages.Pong(0, None)
        return msgspec.structs.replace(backend.pong(), round=engine.round)

    def _close(self, command: messages.Close) -> None:
        if self._engine is not None:
            self._engine.close(drain=command.drain, timeout=command.timeout)
        self.closed.set()

    def _known(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("a command came before the base was there")
        return self._engine


def _output(request_id: str, event: Event) -> messages.Event:
    match event:
        case TextDelta():
            return messages.TextProduced(request_id, event)
        case Finished():
            return messages.RequestFinished(request_id, event)
        case Failed(error):
            return messages.RequestFailed(request_id, fault_of(error))
