"""The engine as its users have it where it computes in a process of its own. Owns what survives that process: requests
nobody saw anything of, pins, statistics. Who keeps it running is the supervisor.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from edgelora.backends.base import Capabilities
from edgelora.core.engine_errors import engine_stopped
from edgelora.core.errors import Cancelled, EdgeloraError
from edgelora.core.events import Failed
from edgelora.core.progress import Progress
from edgelora.core.request import AdapterRef, Request
from edgelora.core.sampling_params import validate
from edgelora.core.tokenizer import Tokenizer
from edgelora.engine.prefix_cache.cache import PrefixWrite
from edgelora.engine.process import messages
from edgelora.engine.process.crash_blame import CrashBlame
from edgelora.engine.process.error_codec import error_of
from edgelora.engine.process.inflight import InflightRequest, InflightRequests
from edgelora.engine.process.inflight_loads import InflightLoads, lost, tell
from edgelora.engine.process.inflight_prefixes import InflightPrefixes
from edgelora.engine.process.lifecycle import Lifecycle
from edgelora.engine.process.output_log import OutputLog
from edgelora.engine.process.process import EngineProcess
from edgelora.engine.process.stats_totals import StatsTotals
from edgelora.engine.process.supervisor import Supervisor
from edgelora.engine.process.watchdog import WatchdogTimes
from edgelora.engine.scheduler.limits import Limits
from edgelora.engine.stats import EngineHealth, EngineStats
from edgelora.engine.stream import Stream
from edgelora.store.adapters.quarantine import Quarantine

_GRACE_SECONDS = 10.0
"""Seconds that a close may take beyond its timeout: twice the engine's own, which runs in the other process."""
_STOPPED = "The engine was stopped."
_CUT = "The engine was stopped before the answer was complete."


class RemoteEngine:
    """Implements `EngineClient`, and the supervisor's `SupervisorListener`. The base begins to load at once."""

    def __init__(
        self,
        first: messages.Open,
        *,
        tokenizer: Tokenizer,
        quarantine: Quarantine | None = None,
        printed: Path | None = None,
        times: WatchdogTimes | None = None,
    ) -> None:
        """`printed`: a file for what the process prints."""
        self._first = first
        self._tokenizer = tokenizer
        self._progress: Progress | None = None
        self._changed = threading.Condition(threading.RLock())
        self._status = Lifecycle(time.monotonic())
        self._inflight = InflightRequests()
        self._inflight_loads = InflightLoads()
        self._inflight_prefixes = InflightPrefixes()
        self._totals = StatsTotals()
        self._crash_blame = CrashBlame(quarantine)
        self._process: EngineProcess | None = None
        """The one that is ready."""
        self._opened: messages.Ready | None = None
        """The first process's message that it is ready."""
        self._limits: Limits | None = None
        """What the engine in the other process refuses, known once it is ready."""
        self._supervisor = Supervisor(first, crew=self, said=OutputLog(printed), times=times or WatchdogTimes())
        self._supervisor.start()

    @property
    def tokenizer(self) -> Tokenizer:
        return self._tokenizer

    @property
    def capabilities(self) -> Capabilities:
        return self._known_base().capabilities

    @property
    def kv_identity(self) -> str:
        return self._known_base().kv_identity

    @property
    def alive(self) -> bool:
        return self._status.state == "ready"

    @property
    def busy(self) -> bool:
        return self._status.state == "loading" or bool(len(self._inflight) or len(self._inflight_loads))

    def health(self) -> EngineHealth:
        with self._changed:
            return self._status.health(time.monotonic(), self._supervisor.pid)

    def wait_ready(self, progress: Progress | None = None) -> None:
        with self._changed:
            self._progress = progress
            self._changed.wait_for(lambda: self._opened is not None or self._status.error is not None)
            self._progress = None
            if self._opened is None and self._status.error is not None:
                raise self._status.error

    def submit(self, request: Request, *, keep: PrefixWrite | None = None) -> Stream:
        validate(request.sampling)
        stream, now = Stream(request.id, self.cancel), time.monotonic()
        stream.prompt_tokens = len(request.prompt)
        with self._changed:
            self._status.check(now)
            limits, process = self._limits, self._process
            if limits is None or process is None:
                raise engine_stopped(_STOPPED)
            limits.check(request, pinned=self._inflight_loads.pins)
            entry = InflightRequest(request, stream, keep, since=now)
            self._inflight.take(entry, capacity=limits.capacity)
            self._crash_blame.know(use.ref for use in request.adapters)
            self._send(process, entry)
        self._supervisor.wake()
        return stream

    def cancel(self, request_id: str) -> None:
        with self._changed:
            entry = self._inflight.get(request_id)
            if entry is None:
                return
            entry.cancelled = True  # in case this process is dead and nobody has noticed
            if self._process is not None:
                self._process.put(messages.Cancel(request_id))
                return
            self._inflight.land(request_id)
        self._fail(entry, Cancelled())

    def fetch(self, ref: AdapterRef, *, pin: bool = False, instead_of: AdapterRef | None = None) -> Future[bool]:
        with self._changed:
            if self._status.error is not None:
                raise self._status.error
            self._crash_blame.know([ref])
            if instead_of is not None and not pin:  # A pin ends, whether or not there is a process to hear of it.
                self._inflight_loads.forget(instead_of)
            command, done = self._inflight_loads.begin(ref, pin=pin, instead_of=instead_of)
            if self._process is not None:
                self._process.put(self._inflight_loads.send(command.number))
            elif not pin:  # A hint is for now.
                self._inflight_loads.settle(command.number)
                done.set_result(False)
        self._supervisor.wake()
        return done

    def stats(self) -> EngineStats:
        stats = self._totals.now
        return replace(stats, queued=max(0, len(self._inflight) - stats.running))

    def close(self, *, drain: bool = False, timeout: float | None = 10.0) -> None:
        with self._changed:
            ready = self._process is not None
            self._status.stop(engine_stopped(_STOPPED))
            self._changed.notify_all()
        self._supervisor.stop(messages.Close(drain, timeout) if ready else None)
        if not ready:
            self._fail_all(engine_stopped(_CUT))
        self._supervisor.join(None if timeout is None else timeout + _GRACE_SECONDS)
        self._fail_all(engine_stopped(_CUT))

    # What the supervisor tells:
    def starting(self) -> None:
        with self._changed:
            self._status.starting(time.monotonic())

    def ready(self, process: EngineProcess, ready: messages.Ready) -> None:
        with self._changed:
            if self._status.error is not None:
                return
            now = time.monotonic()
            self._status.ready(now)
            self._process = process
            self._opened = self._opened or ready
            self._limits = Limits.of(
                ready.capabilities,
                vocabulary_size=self._tokenizer.size,
                max_queue=self._first.max_queue,
                budget_bytes=self._first.adapter_budget_bytes,
            )
            for command in self._inflight_loads.again():
                process.put(command)
            for entry in self._inflight:
                self._send(process, entry)
            self._changed.notify_all()

    def event(self, event: messages.Event) -> None:
        match event:
            case messages.TextProduced(id, delta):
                if (entry := self._inflight.get(id)) is not None:
                    entry.seen = True
                    entry.stream.put(delta)
            case messages.Placed(id):
                if (entry := self._inflight.get(id)) is not None:
                    entry.stream.place()
            case messages.RequestFinished():
                self._finish(event)
            case messages.RequestFailed(id, fault):
                if (entry := self._land(id)) is not None:
                    entry.stream.put(Failed(error_of(fault)))
            case messages.Stats(stats, same):
                self._totals.take(stats, same)
            case messages.Preloaded():
                self._take_fetched(event)
            case messages.PrefixWritten():
                self._inflight_prefixes.settle(event)
            case messages.FirstUse(phase, paths):
                self._crash_blame.trying(phase, paths)
            case messages.Loading(label, done, total):
                self._loading(label, done, total)

    def ended(self, why: str, *, blamed: bool) -> None:
        with self._changed:
            self._process = None
            stopped = self._status.error is not None
            if not stopped:
                self._status.ended(why)
            self._totals.ended()
            requests = [entry.request for entry in self._inflight if entry.attempts]
            for ref in self._crash_blame.ended(why, blamed=blamed, requests=requests, now=time.monotonic()):
                self._inflight_loads.forget(ref)
                self._inflight.give_up(ref)
            entries, loads = self._inflight.crash(), self._inflight_loads.crash(stopped=stopped)
        error = lost(why) if blamed or not stopped else engine_stopped(_CUT)
        for entry in entries:
            self._fail(entry, Cancelled() if entry.cancelled else error)
        for done in loads:
            tell(done, error)

    def waiting(self, why: str, seconds: float) -> None:
        with self._changed:
            self._status.waiting(time.monotonic(), seconds)

    def over(self, error: EdgeloraError | None) -> None:
        with self._changed:
            self._status.stop(error or engine_stopped(_STOPPED))
            self._changed.notify_all()
        self._fail_all(error or engine_stopped(_CUT))

    def _known_base(self) -> messages.Ready:
        with self._changed:
            if self._opened is None:
                self._status.check(time.monotonic())
                raise engine_stopped(_STOPPED)
            return self._opened

    def _send(self, process: EngineProcess, entry: InflightRequest) -> None:
        entry.begin(time.monotonic())
        keep = self._inflight_prefixes.send(entry.request.id, entry.keep)
        process.put(messages.Submit(entry.request, keep))

    def _land(self, request_id: str) -> InflightRequest | None:
        with self._changed:
            return self._inflight.land(request_id)

    def _finish(self, event: messages.RequestFinished) -> None:
        with self._changed:
            entry = self._inflight.land(event.id)
            if entry is None:
                return
            self._inflight.took(event.finished.timings)
        entry.stream.put(entry.timed(event.finished))

    def _fail(self, entry: InflightRequest, error: EdgeloraError) -> None:
        self._inflight_prefixes.forget(entry.request.id)
        entry.stream.put(Failed(error))

    def _fail_all(self, error: EdgeloraError) -> None:
        with self._changed:
            entries = [entry for entry in self._inflight if self._inflight.land(entry.request.id)]
            loads = self._inflight_loads.crash(stopped=True)
        for entry in entries:
            self._fail(entry, error)
        for done in loads:
            tell(done, error)

    def _take_fetched(self, event: messages.Preloaded) -> None:
        outcome = event.outcome if isinstance(event.outcome, bool) else error_of(event.outcome)
        with self._changed:
            settled = self._inflight_loads.settle(event.number)
            if settled is None:
                return
            command, done = settled
            if command.pin and outcome is True:
                self._inflight_loads.pinned(command)
        tell(done, outcome)

    def _loading(self, label: str, done: int, total: int) -> None:
        with self._changed:
            self._status.loading(time.monotonic(), done / total if total else 0.0)
            progress = self._progress
        if progress is not None:
            progress(label, done, total)
