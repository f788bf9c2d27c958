"""The engine: the only thread that touches a backend. Commands go in, events come out.

Each round drains the command queue, admits, plans, computes one step and emits events. The engine owns the backend, the
scheduler, the loader thread and every live request. The scheduler decides what runs; `request_state.py` turns tokens
into events. An idle engine sleeps on its command queue.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edgelora.backends.base import Backend, Capabilities
from edgelora.core.engine_errors import as_backend_error, engine_stopped
from edgelora.core.errors import Cancelled, EdgeloraError
from edgelora.core.progress import Progress
from edgelora.core.request import AdapterRef, Request
from edgelora.core.tokenizer import Tokenizer
from edgelora.engine.adapters.loader import Loader, LoadResult
from edgelora.engine.adapters.pool import Pool
from edgelora.engine.commands import Cancel, Close, Command, Preload, Submit
from edgelora.engine.live_requests import LiveRequests
from edgelora.engine.prefix_cache.cache import PrefixCache, PrefixWrite
from edgelora.engine.prefix_cache.transfer import PrefixRead, PrefixTransfer
from edgelora.engine.preload import Preloads
from edgelora.engine.request_state import Clock, RequestState
from edgelora.engine.sampling.guided_decoding import guided_decoder
from edgelora.engine.sampling.sampler import Sampler
from edgelora.engine.scheduler.plan import Choice, Ended, Plan
from edgelora.engine.scheduler.scheduler import Scheduler
from edgelora.engine.shutdown import GRACE_SECONDS, Shutdown, free
from edgelora.engine.stats import EngineHealth, EngineStats
from edgelora.engine.stats_board import StatsBoard
from edgelora.engine.stream import Stream

_log = logging.getLogger(__name__)

# The weight of one finished request in the estimate of how long a refused client should wait.
_RECENT = 0.2

_STOPPED = "The engine was stopped."
_CUT = "The engine was stopped before the answer was complete."


class Engine:
    """An engine in this process. Owns the backend and closes it. Every method may be called from any thread."""

    def __init__(
        self,
        backend: Backend,
        *,
        adapter_budget_bytes: int,
        max_queue: int,
        prefixes: PrefixCache | None = None,
        speculate: bool = False,
        streams: Callable[[str, Callable[[str], None]], Stream] = Stream,
        on_change: Callable[[], None] | None = None,
        on_failure: Callable[[], None] | None = None,
    ) -> None:
        """Start the engine's thread.

        `adapter_budget_bytes`: memory for adapters. `max_queue`: number of requests that may wait beside the running
        ones. `prefixes`: the cache of KV on disk, closed with the engine; None disables it. `speculate`: draft tokens
        by prompt lookup where that pays. `streams` makes a request's stream from its id and the function that cancels
        it. `on_change` is called on the engine's thread when there are new statistics; it must not block. `on_failure`
        is called on that thread when an exception ends it, before its requests fail.
        """
        self._backend = backend
        self._streams = streams
        self._on_change = on_change
        self._on_failure = on_failure
        pool = Pool(adapter_budget_bytes, backend.capabilities.max_slots, clock=time.time)
        self._scheduler = Scheduler(
            backend.capabilities,
            pool,
            max_queue=max_queue,
            vocabulary_size=backend.tokenizer.size,
            speculate=speculate,
        )
        self._preloads = Preloads(pool)
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._loader = Loader(backend.load, self._commands.put)
        self._prefix_transfer = PrefixTransfer(prefixes, self._scheduler, backend, self._loader)
        self._runs = LiveRequests()
        self._shutdown = Shutdown()
        self._rounds = self._steps = self._tokens = 0
        self._asleep = False
        self._service_seconds = 1.0
        self._stats_board = StatsBoard(self._scheduler, self._backend)
        self._thread = threading.Thread(target=self._main, name="edgelora-engine", daemon=True)
        self._thread.start()

    @property
    def tokenizer(self) -> Tokenizer:
        return self._backend.tokenizer

    @property
    def capabilities(self) -> Capabilities:
        return self._backend.capabilities

    @property
    def kv_identity(self) -> str:
        return self._backend.kv_identity

    @property
    def alive(self) -> bool:
        """True if a request submitted now would be computed."""
        return self._runs.stopped is None and self._thread.is_alive()

    @property
    def round(self) -> int | None:
        """Number of rounds begun since the start; None while the engine sleeps with nothing to compute.

        A number that stands still, with no call into the backend, means that the engine's thread is stuck.
        """
        return None if self._asleep else self._rounds

    def health(self) -> EngineHealth:
        return EngineHealth("ready" if self.alive else "stopped", self._runs.stopped or "", pid=os.getpid())

    def wait_ready(self, progress: Progress | None = None) -> None:
        """Return at once: the base was loaded before. Raises BackendError(code engine_stopped)."""
        if not self.alive:
            raise engine_stopped(self._runs.stopped or _STOPPED)

    def submit(self, request: Request, *, keep: PrefixWrite | None = None) -> Stream:
        """Begin a request and return the stream of its events.

        `keep`: the part of its prompt whose KV is written to disk, whether or not it was seen before. Raises
        UsageError, ContextTooLong, AdapterError(code adapter_too_large), Busy(code queue_full, with retry_after) or
        BackendError(code engine_stopped); a later error arrives as `Failed` in the stream.
        """
        self._scheduler.check(request)
        held = guided_decoder(request.sampling.constraint, self.tokenizer)
        ends = self.tokenizer.end_ids
        sampler = Sampler(request.sampling, request.prompt, end_ids=ends, guided_decoder=held)
        look = self._prefix_transfer.look(request, keep)
        stream = self._streams(request.id, self.cancel)
        stream.prompt_tokens = len(request.prompt)
        run = RequestState(request, stream, sampler, Clock(time.monotonic()))
        capacity, patience = self._scheduler.limits.capacity, self._service_seconds
        send = partial(self._commands.put, Submit(run, look))
        self._runs.take(run, capacity=capacity, retry_after=patience, send=send)
        return stream

    def cancel(self, request_id: str) -> None:
        """Cancel a request in any state. Does nothing for an ended or unknown id."""
        self._commands.put(Cancel(request_id))

    def fetch(self, ref: AdapterRef, *, pin: bool = False, instead_of: AdapterRef | None = None) -> Future[bool]:
        """Load an adapter that no request waits for. The result is True if it is in memory afterwards.

        `pin`: keep it in memory. `instead_of`: a pin that ends with this one, possibly the adapter's own. Errors such
        as AdapterError(code pins_too_large) are in the result. Raises BackendError(code engine_stopped). The policies
        are in `preload.py`.
        """
        fetch = Preload(ref, pin, instead_of)
        self._runs.pass_on(partial(self._commands.put, fetch))
        return fetch.done

    def stats(self) -> EngineStats:
        posted = self._stats_board.stats
        return replace(posted, queued=max(0, len(self._runs) - posted.running))

    def close(self, *, drain: bool = False, timeout: float | None = 10.0) -> None:
        """Refuse new requests, finish (`drain`) or fail the live ones, and close the backend. May be called twice.

        Requests that run after `timeout` seconds (None: no limit) fail with BackendError(code engine_stopped).
        """
        wait = timeout if drain else 0.0
        self._runs.stop(_STOPPED)
        self._commands.put(Close(None if wait is None else time.monotonic() + wait))
        self._thread.join(None if timeout is None else timeout + GRACE_SECONDS)
        # A step that never returns must not leave a reader waiting.
        self._runs.fail_all(_CUT)

    def _main(self) -> None:
        why = _STOPPED
        try:
            while self._turn():
                pass
        except BaseException as cause:  # Readers must get an error: no other thread would send them one.
            _log.exception("the engine's thread died")
            why = f"The engine died ({type(cause).__name__}: {cause})."
            if self._on_failure is not None:
                self._on_failure()
        finally:
            self._runs.stop(why)
            self._runs.fail_all(why)
            self._preloads.stop(self._commands, engine_stopped(why))
            self._runs.clear()
            self._stats_board.close(self._steps, self._tokens)
            free(self._backend, self._loader, self._prefix_transfer)

    def _turn(self) -> bool:
        """Run one round: admit, compute one step, take commands. Return False when closed with nothing left to do."""
        self._rounds += 1
        admission = self._preloads.join(self._scheduler.admit())
        for sequence in admission.clears:
            self._backend.clear(sequence)
        for slot in admission.detach:
            self._backend.detach(slot)
        self._runs.mark(admission.loading, "loading")
        for load in admission.loads:
            self._loader.request(load.ref)
        plan = self._scheduler.plan()
        if plan.rows:
            self._compute(plan)
        self._publish(idle=not plan.rows)
        self._obey(wait=not plan.rows)
        return not (self._shutdown.begun and len(self._scheduler) == 0)

    def _compute(self, plan: Plan) -> None:
        self._scheduler.begin(plan)
        self._runs.mark((start.request_id for start in plan.starts), "scheduled")
        self._publish()
        self._steps += 1
        try:
            for move in plan.moves:
                move.carry_out(self._backend)
            began = time.perf_counter()
            logits = self._backend.step([row.chunk for row in plan.rows])
            self._scheduler.costs.observe(plan.tokens, time.perf_counter() - began)
        except Exception as error:  # Only the step's requests fail; others and the engine go on.
            failure = as_backend_error(error, "The step failed")
            for row in plan.rows:
                self._fail(row.request_id, failure)
            return
        keeps = self._prefix_transfer.to_keep(plan)
        for ended in self._scheduler.apply(plan, self._choose(plan, logits)):
            self._finish(ended)
        self._prefix_transfer.keep(keeps)

    def _choose(self, plan: Plan, logits: list[NDArray[np.float32] | None]) -> dict[str, tuple[Choice, ...]]:
        choices: dict[str, tuple[Choice, ...]] = {}
        for row, values in zip(plan.rows, logits, strict=True):
            if values is None:
                continue
            run = self._runs[row.request_id]
            try:
                chosen = run.choose(values, row.draft, self.tokenizer)
            except Exception as error:  # One request's logits must not end the others.
                self._fail(row.request_id, as_backend_error(error, "No token could be chosen"))
                continue
            choices[row.request_id] = chosen
            self._tokens += len(chosen)
            run.clock.first_token = run.clock.first_token or time.monotonic()
        return choices

    def _obey(self, *, wait: bool) -> None:
        """Carry out the queued commands. With `wait`, sleep until there is one or the deadline of a close."""
        try:
            self._carry_out(self._next_command(wait=wait))
            while True:
                self._carry_out(self._commands.get_nowait())
        except queue.Empty:
            pass
        if self._shutdown.overdue:
            for request_id in self._scheduler.live_ids():
                self._scheduler.cancel(request_id)
                self._report(request_id, engine_stopped(_CUT))

    def _next_command(self, *, wait: bool) -> Command:
        self._asleep = wait
        try:
            return self._commands.get(wait, self._shutdown.remaining() if wait else None)
        finally:
            self._asleep = False

    def _carry_out(self, command: Command) -> None:
        match command:
            case Submit(run, look):
                try:
                    self._prefix_transfer.submit(run.request, look)
                except EdgeloraError as error:  # An adapter was pinned between the first check and this one.
                    self._report(run.request.id, error)
            case Preload():
                self._preloads.begin(command, self._runs.requests())
            case Cancel(request_id):
                if self._scheduler.cancel(request_id):
                    self._report(request_id, Cancelled())
            case LoadResult():
                self._take_load(command)
            case PrefixRead():
                self._runs.mark(self._prefix_transfer.take(command), "loaded")
            case Close():
                self._shutdown.begin(command)

    def _take_load(self, result: LoadResult) -> None:
        outcome, slot = result.outcome, self._scheduler.pool.slot(result.ref)
        if not isinstance(outcome, EdgeloraError) and slot is not None:
            try:
                self._backend.attach(slot, outcome)
            except Exception as error:  # As for a failed load, only the adapter's own requests end.
                outcome = as_backend_error(error, f"Adapter {result.ref} could not be attached")
        if isinstance(outcome, EdgeloraError):
            for request_id in self._scheduler.load_failed(result.ref):
                self._report(request_id, outcome)
        else:
            self._runs.mark(self._scheduler.loaded(result.ref), "loaded")
        self._preloads.settle(result.ref, outcome if isinstance(outcome, EdgeloraError) else None)

    def _fail(self, request_id: str, error: EdgeloraError) -> None:
        if self._scheduler.fail(request_id):
            self._report(request_id, error)

    def _report(self, request_id: str, error: EdgeloraError) -> None:
        self._forget(request_id).fail(error)

    def _finish(self, ended: Ended) -> None:
        run, now = self._forget(ended.request_id), time.monotonic()
        self._service_seconds += _RECENT * (now - run.clock.scheduled - self._service_seconds)
        run.finish(ended.reason, usage=ended.usage, now=now)

    def _forget(self, request_id: str) -> RequestState:
        """Remove a request before its last event, so that the reader of that event finds statistics without it."""
        self._prefix_transfer.forget(request_id)
        run = self._runs.forget(request_id)
        self._publish()
        return run

    def _publish(self, *, idle: bool = False) -> None:
        self._stats_board.post(self._steps, self._tokens, idle=idle)
        if self._on_change is not None:
            self._on_change()
