"""Installing adapters in background threads, one after another in each lane.

`JobTable` is the pure part: the jobs, their statuses, and the removal of old ones. `Jobs` runs them. Jobs are in memory
only: after a restart there are none, while the adapters they installed remain.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from enum import StrEnum

from edgelora.core.errors import Busy, EdgeloraError, NotFound
from edgelora.core.progress import Progress
from edgelora.runtime.install.sources import InstallResult
from edgelora.server.http.errors import internal_error

logger = logging.getLogger(__name__)

MAX_WAITING = 32
"""Maximum number of queued jobs."""
MAX_KEPT = 512
"""Maximum number of ended jobs that are kept."""
RETRY_SECONDS = 5.0


class Status(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Update:
    status: Status
    message: str
    at: float
    """Time in Unix seconds."""


@dataclass(frozen=True, slots=True)
class Task:
    """The work of a job, as the API that submits it describes it to its clients."""

    kind: str
    name: str
    """The name of the adapter to install."""
    source: str
    """The adapter's origin, without any token."""
    about: str = ""
    """The client's description of the adapter."""
    group: str = ""
    """The id of the API's object that the job belongs to."""
    status_names: Mapping[Status, str] = field(default_factory=dict)
    """The API's own names of statuses, where it has others."""


@dataclass(frozen=True, slots=True)
class Job:
    """The state of a job at one moment."""

    id: str
    task: Task
    updates: tuple[Update, ...]
    """All statuses of the job so far, the latest last; never empty."""
    progress: str = ""
    """Progress of a running job, as text."""
    installed: InstallResult | None = None
    error: EdgeloraError | None = None

    @property
    def status(self) -> Status:
        return self.updates[-1].status

    @property
    def created(self) -> float:
        return self.updates[0].at

    @property
    def updated(self) -> float:
        return self.updates[-1].at

    @property
    def ended(self) -> bool:
        return self.status in (Status.SUCCEEDED, Status.FAILED)


class JobTable:
    """The jobs by id. No clock, no threads."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        """The jobs by id, oldest first."""

    def every(self) -> list[Job]:
        return list(self._jobs.values())

    def get(self, job_id: str) -> Job:
        """Return a job. Raises NotFound."""
        if job_id not in self._jobs:
            remedy = "The server forgets jobs when it restarts; GET /v1/adapters shows what is installed."
            raise NotFound("job", job_id, (), remedy)
        return self._jobs[job_id]

    def add(self, job_id: str, task: Task, *, now: float) -> Job:
        """Add a queued job. Raises Busy if too many are queued."""
        waiting = sum(job.status is Status.QUEUED for job in self._jobs.values())
        if waiting >= MAX_WAITING:
            message = f"{waiting} adapters are waiting to be installed."
            raise Busy("jobs_full", message, "Wait until some are done.", retry_after=RETRY_SECONDS)
        self._jobs[job_id] = Job(job_id, task, (Update(Status.QUEUED, "Waiting.", now),))
        ended = [job.id for job in self._jobs.values() if job.ended]
        for old in ended[: max(0, len(ended) - MAX_KEPT)]:
            del self._jobs[old]
        return self._jobs[job_id]

    def start(self, job_id: str, *, now: float) -> None:
        self._move(job_id, Update(Status.RUNNING, "Being installed.", now))

    def set_progress(self, job_id: str, progress: str) -> None:
        self._jobs[job_id] = replace(self._jobs[job_id], progress=progress)

    def succeed(self, job_id: str, installed: InstallResult, *, now: float) -> None:
        name, number = installed.manifest.name, installed.version.number
        messages = [f"Installed {name}, version {number}.", *(w.message for w in installed.version.warnings)]
        self._move(job_id, Update(Status.SUCCEEDED, " ".join(messages), now))
        self._jobs[job_id] = replace(self._jobs[job_id], installed=installed, progress="")

    def fail(self, job_id: str, error: EdgeloraError, *, now: float) -> None:
        self._move(job_id, Update(Status.FAILED, str(error), now))
        self._jobs[job_id] = replace(self._jobs[job_id], error=error, progress="")

    def _move(self, job_id: str, update: Update) -> None:
        job = self._jobs[job_id]
        self._jobs[job_id] = replace(job, updates=(*job.updates, update))


Work = Callable[[Progress], InstallResult]
"""Installs an adapter. Blocking. Raises EdgeloraError."""


class Lane(StrEnum):
    """A queue of jobs: local installations do not wait for downloads."""

    LOCAL = "local"
    HUB = "hub"


@dataclass(frozen=True, slots=True)
class _Waiting:
    job_id: str
    work: Work
    done: Future[Job]


class Jobs:
    """Runs the jobs. Thread-safe. A lane has a daemon thread while it has work."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._table = JobTable()
        self._waiting: dict[Lane, deque[_Waiting]] = {lane: deque() for lane in Lane}
        self._running: set[Lane] = set()

    def every(self) -> list[Job]:
        """Return all jobs, oldest first."""
        with self._lock:
            return self._table.every()

    def get(self, job_id: str) -> Job:
        """Return a job. Raises NotFound."""
        with self._lock:
            return self._table.get(job_id)

    def submit(self, task: Task, work: Work, *, lane: Lane = Lane.LOCAL) -> tuple[Job, Future[Job]]:
        """Queue a job. Returns it, and a future of it once it has ended. Raises Busy if too many are queued."""
        done: Future[Job] = Future()
        with self._lock:
            job = self._table.add(f"job-{secrets.token_hex(12)}", task, now=self._clock())
            self._waiting[lane].append(_Waiting(job.id, work, done))
            if lane not in self._running:
                self._running.add(lane)
                threading.Thread(target=self._run, args=(lane,), name=f"edgelora-jobs-{lane}", daemon=True).start()
        return job, done

    def _run(self, lane: Lane) -> None:
        while (waiting := self._next(lane)) is not None:
            outcome = self._outcome(waiting)
            with self._lock:
                if isinstance(outcome, EdgeloraError):
                    self._table.fail(waiting.job_id, outcome, now=self._clock())
                else:
                    self._table.succeed(waiting.job_id, outcome, now=self._clock())
                job = self._table.get(waiting.job_id)
            waiting.done.set_result(job)

    def _next(self, lane: Lane) -> _Waiting | None:
        with self._lock:
            if not self._waiting[lane]:
                self._running.discard(lane)
                return None
            waiting = self._waiting[lane].popleft()
            self._table.start(waiting.job_id, now=self._clock())
            return waiting

    def _outcome(self, waiting: _Waiting) -> InstallResult | EdgeloraError:
        def progress(label: str, done: int, total: int) -> None:
            share = f": {100 * done // total}%" if total else ""
            with self._lock:
                self._table.set_progress(waiting.job_id, f"{label}{share}")

        try:
            return waiting.work(progress)
        except EdgeloraError as error:
            return error
        except Exception:  # An unexpected failure must end its own job, not this thread.
            logger.exception("%s failed", waiting.job_id)
            return internal_error()
