"""The engine: the only thread that touches a backend. Commands in, events out; drain, admit, plan, step, emit.

Owns the backend, the scheduler, the loader thread, and every live request. What runs when is the scheduler's decision;
what a token becomes is `request_state.py`'s. An idle engine sleeps on its command queue.
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
from edgelora.engine.stats import EngineHealth, EngineStats
from edgelora.engine.stats_board import StatsBoard
from edgelora.engine.stream import Stream

_log = logging.getLogger(__name__)

# How much one finished request weighs in the estimate of how long a refused one should wait.
_RECENT = 0.2
# What a close may take beyond its timeout: the step that runs, and giving the base back.
_GRACE_SECONDS = 5.0

_STOPPED = "The engine was stopped."
_CUT = "The engine was stopped before the answer was complete."


class Engine:
    """Owns the backend from here on and closes it. Every method may be called from any thread."""

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
    ) -> None:
        """`prefixes`: KV on disk; closed with the engine. None: there is none. `speculate`: where it pays.

        `streams` makes a request's stream of its id and of what cancels it. `on_change`: new statistics, on the
        engine's thread; it must not block.
        """
        self._backend = backend
        self._streams = streams
        self._on_change = on_change
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
        self._closing: Close | None = None
        self._steps = self._tokens = 0
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
        """Whether a request sent now would be worked on."""
        return self._runs.stopped is None and self._thread.is_alive()

    def health(self) -> EngineHealth:
        return EngineHealth("ready" if self.alive else "stopped", self._runs.stopped or "", pid=os.getpid())

    def wait_ready(self, progress: Progress | None = None) -> None:
        """It is: the base was in memory before. Raises BackendError(code engine_stopped)."""
        if not self.alive:
            raise engine_stopped(self._runs.stopped or _STOPPED)

    def submit(self, request: Request, *, keep: PrefixWrite | None = None) -> Stream:
        """`keep`: what of its prompt is written to disk, seen before or not.

        Raises UsageError, ContextTooLong, AdapterError(code adapter_too_large), Busy(code queue_full, with
        retry_after) or BackendError(code engine_stopped); everything later arrives as Failed in the stream.
        """
        self._scheduler.check(request)
        held = guided_decoder(request.sampling.constraint, self.tokenizer)
        sampler = Sampler(request.sampling, request.prompt, guided_decoder=held)
        look = self._prefix_transfer.look(request, keep)
        stream = self._streams(request.id, self.cancel)
        run = RequestState(request, stream, sampler, Clock(time.monotonic()))
        capacity, patience = self._scheduler.limits.capacity, self._service_seconds
        send = partial(self._commands.put, Submit(run, look))
        self._runs.take(run, capacity=capacity, retry_after=patience, send=send)
        return stream

    def cancel(self, request_id: str) -> None:
        """Legal in every state; nothing for an ended or unknown id."""
        self._commands.put(Cancel(request_id))

    def fetch(self, ref: AdapterRef, *, pin: bool = False, instead_of: AdapterRef | None = None) -> Future[bool]:
        """Load an adapter that no request waits for; whether it is in memory then. `preload.py` has the policies.

        `pin`: it stays. `instead_of`: a pin that ends with this; its own too, where it is not to stay any more. The
        error, AdapterError(code pins_too_large) for one, is in the result. Raises BackendError(code engine_stopped).
        """
        fetch = Preload(ref, pin, instead_of)
        self._runs.pass_on(partial(self._commands.put, fetch))
        return fetch.done

    def stats(self) -> EngineStats:
        posted = self._stats_board.stats
        return replace(posted, queued=max(0, len(self._runs) - posted.running))

    def close(self, *, drain: bool = False, timeout: float | None = 10.0) -> None:
        """Refuse new requests, finish (drain) or fail the live ones, close the backend. Safe twice.

        What is not done after `timeout` seconds (None: no limit) fails with BackendError(code engine_stopped).
        """
        wait = timeout if drain else 0.0
        self._runs.stop(_STOPPED)
        self._commands.put(Close(None if wait is None else time.monotonic() + wait))
        self._thread.join(None if timeout is None else timeout + _GRACE_SECONDS)
        # A step that never returns must not leave a reader waiting.
        self._runs.fail_all(_CUT)

    def _main(self) -> None:
        why = _STOPPED
        try:
            while self._turn():
                pass
        except BaseException as cause:  # The readers must hear of it: there is nobody else to tell them.
            _log.exception("the engine's thread died")
            why = f"The engine died ({type(cause).__name__}: {cause})."
        finally:
            self._runs.stop(why)
            self._runs.fail_all(why)
            self._preloads.stop(self._commands, engine_stopped(why))
            self._runs.clear()
            self._stats_board.close(self._steps, self._tokens)
            self._give_back()

    def _turn(self) -> bool:
        """Run one round: admit, compute one step, obey. Return False when closed and nothing is left to finish."""
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
        return not (self._closing is not None and len(self._scheduler) == 0)

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
        except Exception as error:  # The step's requests fail; the others, and the engine, go on.
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
        """Carry out the commands there are; with `wait` sleep until there is one, or until the deadline of a close."""
        try:
            self._carry_out(self._commands.get(wait, self._remaining() if wait else None))
            while True:
                self._carry_out(self._commands.get_nowait())
        except queue.Empty:
            pass
        if self._closing is not None and self._remaining() == 0.0:
            for request_id in self._scheduler.live_ids():
                self._scheduler.cancel(request_id)
                self._report(request_id, engine_stopped(_CUT))

    def _carry_out(self, command: Command) -> None:
        match command:
            case Submit(run, look):
                try:
                    self._prefix_transfer.submit(run.request, look)
                except EdgeloraError as error:  # A pin came between the first check and this one.
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
                self._closing = command.sooner(self._closing)

    def _take_load(self, result: LoadResult) -> None:
        outcome, slot = result.outcome, self._scheduler.pool.slot(result.ref)
        if not isinstance(outcome, EdgeloraError) and slot is not None:
            try:
                self._backend.attach(slot, outcome)
            except Exception as error:  # The same as a load that failed: its own requests end, nobody else's.
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
        """Before its last event, so that who reads that event finds the statistics without it."""
        self._prefix_transfer.forget(request_id)
        run = self._runs.forget(request_id)
        self._publish()
        return run

    def _publish(self, *, idle: bool = False) -> None:
        self._stats_board.post(self._steps, self._tokens, idle=idle)
        if self._on_change is not None:
            self._on_change()

    def _remaining(self) -> float | None:
        """Seconds until the deadline of a close; None where there is none."""
        if self._closing is None or self._closing.deadline is None:
            return None
        return max(0.0, self._closing.deadline - time.monotonic())

    def _give_back(self) -> None:
        self._prefix_transfer.close(_GRACE_SECONDS)
        # A load that still runs uses the backend: better kept until the process ends than freed under it.
        if not self._loader.close(_GRACE_SECONDS):
            _log.warning("the backend is not closed: a load still runs")
            return
        try:
            self._backend.close()
        except Exception:  # Every request has its end by now; nobody is left who could act on this.
            _log.exception("closing the backend failed")
