"""benchmarks.serving.http end to end with tiny settings, and what it calls wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.harness.client import Exchange
from benchmarks.harness.homes import Home
from benchmarks.harness.targets import Memory
from benchmarks.harness.workload import Job
from benchmarks.serving import http
from benchmarks.serving.crowd import Crowd, content_length
from benchmarks.serving.http import CHILD, DIRECT, HTTP, Case


class Still:
    """A server whose memory never changes."""

    memory = Memory(2, 1)


def crowd(*exchanges: Exchange) -> Crowd:
    made = Crowd(Still(), Home(Path(), Path(), (), range(1)), tokens=1, prompt=1, seed=0)  # type: ignore[arg-type]
    made.exchanges = list(exchanges)
    return made


def reply(status: int, *, ended: float | None = 2.0, retry_after: str = "") -> Exchange:
    found = Exchange(Job(0.0, None, (1,), 1), 0.0, sent=1.0, status=status, ended=ended)
    found.retry_after = retry_after
    return found


def test_every_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Each way answers each case in full, and a small crowd gets replies that it may get."""
    tiny = ["--width", "2", "--prompt", "8", "--tokens", "4", "--rounds", "1", "--clients", "6", "--seconds", "0.3"]
    assert http.main([*tiny, "--threads", "1", "--context", "128"]) == 0
    out = capsys.readouterr().out
    for case in ("1 on the base", "1 on an adapter", "2 on adapters"):
        assert all(f"| {case} | {way} |" in out for way in (DIRECT, HTTP, CHILD))
    assert "| HTTP, 8 connections |" in out and "| replies | 200: " in out and "| lost | 0 |" in out


def test_what_a_crowd_may_be_told() -> None:
    """200, 429 and 503, refusals with Retry-After, each to its end."""
    assert crowd(reply(200), reply(503), reply(429, retry_after="1")).wrong(growth=0) == []
    assert crowd(reply(200), reply(500)).wrong(growth=0) == ["status 500 "]
    assert crowd(reply(200), reply(0, ended=None)).wrong(growth=0) == ["status 0 "]
    assert crowd(reply(200, ended=None)).wrong(growth=0) == ["an answer that never ended"]
    assert crowd(reply(200), reply(429)).wrong(growth=0) == ["a 429 without Retry-After"]
    assert crowd(reply(503)).wrong(growth=0) == ["nobody was answered"]


def test_memory_is_bounded() -> None:
    """The most there was, against what there was before."""
    grown = crowd(reply(200))
    grown.most = Memory(10**9, 3 * 10**6 + 1)
    assert grown.wrong(growth=3 * 10**6) == [] and grown.wrong(growth=2 * 10**6) == ["memory grew by 3.0 MB"]


def test_figures_of_a_request() -> None:
    """The first token counts from the asking, the others from the one before, on average."""
    case = Case(2, adapters=True)
    case.note(DIRECT, [1.0, 2.0, 4.0])
    assert (case.first, case.each, case.label) == ({DIRECT: [1.0]}, {DIRECT: [1.5]}, "2 on adapters")


def test_content_length() -> None:
    """However it is written; a reply without one cannot be read on a kept connection."""
    assert content_length(b"HTTP/1.1 200 OK\r\nContent-LENGTH: 12\r\n\r\n") == 12
    with pytest.raises(RuntimeError):
        content_length(b"HTTP/1.1 200 OK\r\n\r\n")
