"""Jobs: one at a time, bounded in number, each with an end that says what happened."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest

from edgelora.core.errors import AdapterCorrupt, Busy, NotFound
from edgelora.core.progress import Progress
from edgelora.runtime.install.sources import InstallResult
from edgelora.server.management.jobs import MAX_KEPT, MAX_WAITING, Jobs, JobTable, Lane, Status, Task

TASK = Task("adapter", "a", "file-1")
WAIT = 20.0


def installed(name: str = "a") -> InstallResult:
    version = SimpleNamespace(number=1, warnings=())
    return cast(InstallResult, SimpleNamespace(manifest=SimpleNamespace(name=name), version=version))


def test_a_job_goes_from_queued_to_its_end() -> None:
    """Every step is remembered with its time; progress is told while it runs only."""
    table = JobTable()
    table.add("j", TASK, now=1.0)
    table.start("j", now=2.0)
    table.set_progress("j", "Converting a: 50%")
    assert (table.get("j").status, table.get("j").progress) == (Status.RUNNING, "Converting a: 50%")
    table.succeed("j", installed(), now=3.0)
    job = table.get("j")
    assert [(update.status, update.at) for update in job.updates] == [
        ("queued", 1.0),
        ("running", 2.0),
        ("succeeded", 3.0),
    ]
    assert (job.created, job.updated, job.progress, job.ended) == (1.0, 3.0, "", True)


def test_too_many_waiting_jobs_are_refused() -> None:
    """With a time to come back; one that runs is no waiting one."""
    table = JobTable()
    for number in range(MAX_WAITING):
        table.add(str(number), TASK, now=0)
    with pytest.raises(Busy) as caught:
        table.add("more", TASK, now=0)
    assert caught.value.code == "jobs_full" and caught.value.retry_after
    table.start("0", now=1)
    table.add("more", TASK, now=1)


def test_ended_jobs_are_forgotten_the_oldest_first() -> None:
    """So that the table stays small however long the server runs; those that wait are never forgotten."""
    table = JobTable()
    table.add("waiting", TASK, now=0)
    for number in range(MAX_KEPT + 10):
        table.add(str(number), TASK, now=0)
        table.fail(str(number), AdapterCorrupt("bad", "It is bad."), now=1)
    table.add("last", TASK, now=2)
    assert len(table.every()) == MAX_KEPT + 2 and table.get("waiting").status is Status.QUEUED
    with pytest.raises(NotFound, match="restarts"):
        table.get("0")


def test_one_runs_at_a_time_in_the_order_they_came() -> None:
    """The next one starts when the one before has ended."""
    jobs, gate, order, together = Jobs(), threading.Event(), [], []
    running = threading.Semaphore(1)

    def work(number: int) -> InstallResult:
        together.append(running.acquire(blocking=False))
        assert gate.wait(WAIT)
        order.append(number)
        running.release()
        return installed()

    def working(number: int) -> Callable[[Progress], InstallResult]:
        return lambda progress: work(number)

    taken = [jobs.submit(TASK, working(number)) for number in range(4)]
    assert jobs.get(taken[3][0].id).status is Status.QUEUED
    gate.set()
    assert [done.result(WAIT).status for _, done in taken] == ["succeeded"] * 4
    assert order == [0, 1, 2, 3] and all(together)


def test_what_has_to_come_first_holds_up_nobody() -> None:
    """A lane waits for its own jobs only."""
    jobs, gate = Jobs(), threading.Event()

    def downloading(progress: Progress) -> InstallResult:
        assert gate.wait(WAIT)
        return installed()

    slow = jobs.submit(TASK, downloading, lane=Lane.HUB)[1]
    assert jobs.submit(TASK, lambda progress: installed())[1].result(WAIT).status == "succeeded"
    assert not slow.done()
    gate.set()
    assert slow.result(WAIT).status == "succeeded"


def test_what_goes_wrong_ends_its_own_job(caplog: pytest.LogCaptureFixture) -> None:
    """With the error's own code and text; what nobody foresaw is logged, and told as internal. The next one runs."""
    jobs = Jobs()

    def corrupt(progress: Progress) -> InstallResult:
        raise AdapterCorrupt("bad_archive", "It is damaged.", "Make it again.")

    def broken(progress: Progress) -> InstallResult:
        raise ZeroDivisionError

    ended = [jobs.submit(TASK, work)[1].result(WAIT) for work in (corrupt, broken, lambda progress: installed())]
    assert [job.status for job in ended] == ["failed", "failed", "succeeded"]
    assert ended[0].error is not None and ended[0].error.code == "bad_archive"
    assert ended[0].updates[-1].message == "It is damaged. Make it again."
    assert ended[1].error is not None and ended[1].error.code == "internal_error"
    assert "ZeroDivisionError" in caplog.text
