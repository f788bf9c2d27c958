"""The engine as its users have it where it computes in a process of its own. Owns what survives that process: requests
nobody saw anything of, pins, statistics. Who keeps it running is the supervisor.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from edgelora.adapters.pool import Pool
from edgelora.adapters.quarantine import Quarantine
from edgelora.backends.base import Capabilities, Vocabulary
from edgelora.core import AdapterRef, Failed, Progress, Request
from edgelora.errors import Cancelled, EdgeloraError
from edgelora.failures import check_tokens, engine_stopped
from edgelora.prefixes.cache import Keep
from edgelora.sampling import Sampler
from edgelora.scheduler import Scheduler
from edgelora.stats import EngineHealth, EngineStats
from edgelora.stream import Stream
from edgelora.supervisor import messages
from edgelora.supervisor.blame import Blame
from edgelora.supervisor.faults import error_of
from edgelora.supervisor.fetching import Fetching, lost, tell
from edgelora.supervisor.flights import Flight, Flights
from edgelora.supervisor.keeping import Keeping
from edgelora.supervisor.process import EngineProcess
from edgelora.supervisor.said import Said
from edgelora.supervisor.status import Status
from edgelora.supervisor.supervisor import Supervisor
from edgelora.supervisor.totals import Totals
from edgelora.supervisor.watch import Times

_GRACE_SECONDS = 10.0
"""What a close may take beyond its timeout: twice the engine's own, which runs in the other process."""
_STOPPED = "The engine was stopped."
_CUT = "The engine was stopped before the answer was complete."


class RemoteEngine:
    """Keeps `EngineLike`, and the supervisor's `Crew`. The base begins to load at once."""

    def __init__(
        self,
        first: messages.Open,
        *,
        vocabulary: Vocabulary,
        quarantine: Quarantine | None = None,
        printed: Path | None = None,
        times: Times | None = None,
    ) -> None:
        """`printed`: a file for what the process prints."""
        self._first = first
        self._vocabulary = vocabulary
        self._progress: Progress | None = None
        self._changed = threading.Condition(threading.RLock())
        self._status = Status(time.monotonic())
        self._flights = Flights()
        self._fetching = Fetching()
        self._keeping = Keeping()
        self._totals = Totals()
        self._blame = Blame(quarantine)
        self._process: EngineProcess | None = None
        """The one that is ready."""
        self._opened: messages.Ready | None = None
        """What the first one said of itself."""
        self._rules: Scheduler | None = None
        """Only for what it refuses, which is what the engine's refuses."""
        self._supervisor = Supervisor(first, crew=self, said=Said(printed), times=times or Times())
        self._supervisor.start()

    @property
    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

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
        return self._status.state == "loading" or bool(len(self._flights) or len(self._fetching))

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

    def submit(self, request: Request, *, keep: Keep | None = None) -> Stream:
        Sampler(request.sampling, request.prompt)  # for what it refuses
        stream, now = Stream(request.id, self.cancel), time.monotonic()
        with self._changed:
            self._status.check(now)
            rules, process = self._rules, self._process
            if rules is None or process is None:
                raise engine_stopped(_STOPPED)
            rules.check(request)
            check_tokens(request, self._vocabulary)
            flight = Flight(request, stream, keep, since=now)
            self._flights.take(flight, capacity=rules.capacity)
            self._blame.know(use.ref for use in request.adapters)
            self._send(process, flight)
        self._supervisor.wake()
        return stream

    def cancel(self, request_id: str) -> None:
        with self._changed:
            flight = self._flights.get(request_id)
            if flight is None:
                return
            flight.cancelled = True  # in case this process is dead and nobody has noticed
            if self._process is not None:
                self._process.put(messages.Cancel(request_id))
                return
            self._flights.land(request_id)
        self._fail(flight, Cancelled())

    def fetch(self, ref: AdapterRef, *, pin: bool = False, instead_of: AdapterRef | None = None) -> Future[bool]:
        with self._changed:
            if self._status.error is not None:
                raise self._status.error
            self._blame.know([ref])
            if instead_of is not None and not pin:  # A pin ends, whether or not there is a process to hear of it.
                self._fetching.forget(instead_of)
                self._tell_rules()
            command, done = self._fetching.begin(ref, pin=pin, instead_of=instead_of)
            if self._process is not None:
                self._process.put(self._fetching.send(command.number))
            elif not pin:  # A hint is for now.
                self._fetching.settle(command.number)
                done.set_result(False)
        self._supervisor.wake()
        return done

    def stats(self) -> EngineStats:
        stats = self._totals.now
        return replace(stats, queued=max(0, len(self._flights) - stats.running))

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
            pool = Pool(self._first.adapter_budget_bytes, ready.capabilities.max_slots)
            self._rules = Scheduler(ready.capabilities, pool, max_queue=self._first.max_queue)
            for command in self._fetching.again():
                process.put(command)
            self._tell_rules()
            for flight in self._flights:
                self._send(process, flight)
            self._changed.notify_all()

    def event(self, event: messages.Event) -> None:
        match event:
            case messages.Text(id, delta):
                if (flight := self._flights.get(id)) is not None:
                    flight.seen = True
                    flight.stream.put(delta)
            case messages.Placed(id):
                if (flight := self._flights.get(id)) is not None:
                    flight.stream.place()
            case messages.Done():
                self._finish(event)
            case messages.Broken(id, fault):
                if (flight := self._land(id)) is not None:
                    flight.stream.put(Failed(error_of(fault)))
            case messages.Stats(stats, same):
                self._totals.take(stats, same)
            case messages.Fetched():
                self._take_fetched(event)
            case messages.Kept():
                self._keeping.settle(event)
            case messages.Trying(phase, paths):
                self._blame.trying(phase, paths)
            case messages.Loading(label, done, total):
                self._loading(label, done, total)

    def ended(self, why: str, *, blamed: bool) -> None:
        with self._changed:
            self._process = None
            stopped = self._status.error is not None
            if not stopped:
                self._status.ended(why)
            self._totals.ended()
            for ref in self._blame.ended(why, blamed=blamed):
                self._fetching.forget(ref)
                self._flights.give_up(ref)
            flights, fetches = self._flights.crash(), self._fetching.crash(stopped=stopped)
        error = lost(why) if blamed or not stopped else engine_stopped(_CUT)
        for flight in flights:
            self._fail(flight, Cancelled() if flight.cancelled else error)
        for done in fetches:
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

    def _send(self, process: EngineProcess, flight: Flight) -> None:
        flight.begin(time.monotonic())
        keep = self._keeping.send(flight.request.id, flight.keep)
        process.put(messages.Submit(flight.request, keep))

    def _land(self, request_id: str) -> Flight | None:
        with self._changed:
            return self._flights.land(request_id)

    def _finish(self, event: messages.Done) -> None:
        with self._changed:
            flight = self._flights.land(event.id)
            if flight is None:
                return
            self._flights.took(event.finished.timings)
        flight.stream.put(flight.timed(event.finished))

    def _fail(self, flight: Flight, error: EdgeloraError) -> None:
        self._keeping.forget(flight.request.id)
        flight.stream.put(Failed(error))

    def _fail_all(self, error: EdgeloraError) -> None:
        with self._changed:
            flights = [flight for flight in self._flights if self._flights.land(flight.request.id)]
            fetches = self._fetching.crash(stopped=True)
        for flight in flights:
            self._fail(flight, error)
        for done in fetches:
            tell(done, error)

    def _tell_rules(self) -> None:
        if self._rules is not None:
            self._rules.pool.pinned = self._fetching.pins

    def _take_fetched(self, event: messages.Fetched) -> None:
        outcome = event.outcome if isinstance(event.outcome, bool) else error_of(event.outcome)
        with self._changed:
            found = self._fetching.settle(event.number)
            if found is None:
                return
            command, done = found
            if command.pin and outcome is True:
                self._fetching.pinned(command)
                self._tell_rules()
        tell(done, outcome)

    def _loading(self, label: str, done: int, total: int) -> None:
        with self._changed:
            self._status.loading(time.monotonic(), done / total if total else 0.0)
            progress = self._progress
        if progress is not None:
            progress(label, done, total)
