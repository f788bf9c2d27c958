"""The thread that starts, watches and restarts an engine's process. Owns processes and delays.

Its `SupervisorListener` decides what a process's end means to requests.
"""

from __future__ import annotations

import logging
import queue
import signal
import threading
import time
from collections.abc import Sequence
from typing import Protocol

from edgelora.core.errors import BackendError, EdgeloraError
from edgelora.engine.process import messages
from edgelora.engine.process.error_codec import error_of
from edgelora.engine.process.output_log import OutputLog
from edgelora.engine.process.process import EngineProcess, ending
from edgelora.engine.process.watchdog import Backoff, Watchdog, WatchdogTimes

_log = logging.getLogger(__name__)

FIRST_STARTS = 3
"""Number of crashes in a row after which a base that was never loaded is given up."""


class SupervisorListener(Protocol):
    """The receiver of events.

    A process's reading thread calls `ready` and `event`; the supervisor's thread calls the rest.
    """

    def starting(self) -> None:
        """A process was started and loads the base."""
        ...

    def ready(self, process: EngineProcess, ready: messages.Ready) -> None: ...

    def event(self, event: messages.Event) -> None: ...

    def ended(self, why: str, *, blamed: bool) -> None:
        """The process died, ready or not. `blamed`: the process caused its end itself."""
        ...

    def waiting(self, why: str, seconds: float) -> None:
        """The next start is `seconds` away."""
        ...

    def over(self, error: EdgeloraError | None) -> None:
        """No process will be started any more: the supervisor was stopped, or `error` is permanent."""
        ...

    @property
    def busy(self) -> bool:
        """True if the process has work in which it could hang."""
        ...


class Supervisor:
    def __init__(
        self, first: messages.Open, *, crew: SupervisorListener, said: OutputLog, times: WatchdogTimes
    ) -> None:
        self._first = first
        self._crew = crew
        self._output = said
        self._times = times
        self._process: EngineProcess | None = None
        self._signals: queue.SimpleQueue[str] = queue.SimpleQueue()
        """Events that wake the thread: `busy`, `ended`, `stop`."""
        self._stopping = threading.Event()
        self._watch = Watchdog(times)
        self._given_up: str | None = None
        self._ready_at: float | None = None
        self._was_ready = False
        self._refusal: EdgeloraError | None = None
        self._thread = threading.Thread(target=self._main, name="edgelora-supervisor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def pid(self) -> int | None:
        process = self._process
        return None if process is None else process.pid

    def wake(self) -> None:
        """Notify the thread that there is work to watch."""
        self._signals.put("busy")

    def stop(self, close: messages.Close | None) -> None:
        """Start no more processes.

        `close` is sent to a ready process; without it, or if not ready, the process is killed.
        """
        self._stopping.set()
        process = self._process
        if process is not None and close is not None and self._ready_at is not None:
            process.put(close)
        elif process is not None:
            process.kill()
        self._signals.put("stop")

    def join(self, timeout: float | None) -> None:
        """Wait `timeout` seconds for the process to end, then kill it if it still runs."""
        self._thread.join(timeout)
        process = self._process
        if self._thread.is_alive() and process is not None:
            process.kill()
            self._thread.join(self._times.turn)

    def _main(self) -> None:
        backoff = Backoff(self._times)
        error: EdgeloraError | None = None
        try:
            while error is None and not self._stopping.is_set():
                why = self._one_life()
                if self._stopping.is_set():
                    break
                delay = backoff.ended(0.0 if self._ready_at is None else time.monotonic() - self._ready_at)
                error = self._for_good(why, backoff.failures)
                if error is None:
                    self._wait(why, delay)
        except BaseException as cause:  # Readers must hear of it: there is nobody else to tell them.
            _log.exception("the supervisor died")
            error = BackendError("engine_stopped", f"The supervisor died ({cause!r}).", "Start it again.")
        finally:
            self._crew.over(error)

    def _one_life(self) -> str:
        """Start a process and watch it until it ends. Return why it ended."""
        self._ready_at = self._refusal = self._given_up = None
        self._watch = Watchdog(self._times)
        try:
            process = EngineProcess(self._first, self._output)
        except OSError as error:
            why = f"it cannot be started: {error}"
            self._crew.ended(why, blamed=False)
            return why
        self._process = process
        self._crew.starting()
        process.read(lambda events: self._take(process, events), lambda: self._signals.put("ended"))
        if self._stopping.is_set():  # It was asked to while there was no process to tell.
            process.kill()
        self._follow(process)
        code = process.bury()
        self._process = None
        why = self._given_up or (str(self._refusal) if self._refusal else ending(code))
        # Only the supervisor itself sends SIGKILL on purpose, and then `_given_up` has the reason.
        crashed = code < 0 and -code not in (signal.SIGKILL, signal.SIGTERM)
        blamed = self._given_up is not None or crashed or code == messages.ExitCode.THREAD_FAILED
        if not self._stopping.is_set():
            self._report(why, process.pid)
        self._crew.ended(why, blamed=blamed)
        return why

    def _follow(self, process: EngineProcess) -> None:
        """Watch until the process's pipe ends. Pings only while the process has work."""
        look: float | None = None
        while True:
            now = time.monotonic()
            look = (look or now + self._times.turn) if self._crew.busy else None
            try:
                if self._signals.get(timeout=None if look is None else max(0.0, look - now)) == "ended":
                    return
            except queue.Empty:
                look = None
                self._give_up(process, self._watch.looked())
                process.put(messages.Ping())

    def _take(self, process: EngineProcess, events: Sequence[messages.Event]) -> None:
        for event in events:
            match event:
                case messages.Ready():
                    self._ready_at, self._was_ready = time.monotonic(), True
                    self._watch.ready()
                    self._crew.ready(process, event)
                case messages.NotOpened(fault):
                    self._refusal = error_of(fault)
                case messages.Pong():
                    self._give_up(process, self._watch.answered(event))
                case messages.Logged(name, level, line):
                    logging.getLogger(name).log(level, "%s", line)
                case _:
                    self._crew.event(event)

    def _give_up(self, process: EngineProcess, why: str | None) -> None:
        if why is not None and self._given_up is None:
            self._given_up = why
            process.kill()

    def _for_good(self, why: str, failures: int) -> EdgeloraError | None:
        """Return the error that ends all restarts: a base that cannot be opened, or that crashed FIRST_STARTS times."""
        if self._was_ready:
            return None
        if self._refusal is not None:
            return self._refusal
        if failures < FIRST_STARTS:
            return None
        message = f"The engine's process died {failures} times while it loaded the base: {why}."
        return BackendError("engine_crash", message, "Look at its log, or try another base.")

    def _wait(self, why: str, delay: float) -> None:
        self._crew.waiting(why, delay)
        deadline = time.monotonic() + delay
        while not self._stopping.is_set() and (left := deadline - time.monotonic()) > 0:
            self._stopping.wait(left)

    def _report(self, why: str, pid: int) -> None:
        where = f"What it printed is in {self._output.path}." if self._output.path else "\n".join(self._output.last())
        self._output.note(f"edgelora: the engine's process {pid} ended: {why}")
        _log.error("The engine's process ended: %s. It is started again. %s", why, where)
