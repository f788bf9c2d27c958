"""Many cases against one server: how they ended, what was found, and what was left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

from tests.system.fuzz.cases import Case, Piece, make_case
from tests.system.fuzz.server import TOKEN
from tests.system.fuzz.wire import Outcome, attempt

CLIENTS = 32
SETTLE_SECONDS = 20.0
LOOKS = 5
"""How often the server's state is looked at; first when everything is imported and cached."""
MAX_THREADS = 60
"""anyio's forty workers, and the server's own."""
MAX_GROWTH = 24 << 20
"""Bytes of memory from the first look to the last: bounded stores (responses, jobs) fill up on the way."""
CONTROL_EVERY = 500
BUSY = ("connections", "tasks", "queued", "running", "leases")
"""What is zero in a server that nobody asks anything."""

_BODY = b'{"model":"medical-faq","messages":[{"role":"user","content":"Hi"}],"max_tokens":64}'
_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
_CONTROL = _HEAD + b"Content-Length: %d\r\n\r\n" % len(_BODY) + _BODY


@dataclass(slots=True)
class Report:
    findings: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    routes: int = 0
    states: list[dict[str, Any]] = field(default_factory=list)


class Target:
    """The server's process: its port, its routes, and its state."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._out: IO[str] = process.stdout  # type: ignore[assignment]
        self._in: IO[str] = process.stdin  # type: ignore[assignment]
        self.process = process
        first = json.loads(self._out.readline())
        self.port: int = first["port"]
        self.routes: list[tuple[str, str]] = [(method, path) for method, path in first["routes"]]

    def state(self) -> dict[str, Any]:
        self._in.write("state\n")
        self._in.flush()
        found: dict[str, Any] = json.loads(self._out.readline())
        return found

    def settled(self) -> dict[str, Any]:
        """Its state once nothing is going on, or after a while of waiting for that."""
        until = time.monotonic() + SETTLE_SECONDS
        while True:
            state = self.state()
            if not any(state[name] for name in BUSY):
                return state
            if time.monotonic() > until:
                return state
            time.sleep(0.05)


@contextmanager
def target() -> Iterator[Target]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.system.fuzz.server", folder]
        # One heap instead of one for each worker thread: what is free in them all would look like a leak.
        environ = {**os.environ, "MALLOC_ARENA_MAX": "1"}
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ)
        try:
            yield Target(process)
        finally:
            process.stdin.close()  # type: ignore[union-attr]
            try:
                process.wait(SETTLE_SECONDS)
            finally:
                process.kill()
                process.stdout.close()  # type: ignore[union-attr]


def run(numbers: Iterable[int]) -> Report:
    """Every case of these numbers, and a sound request now and then."""
    chosen = list(numbers)
    report = Report()
    with target() as server, ThreadPoolExecutor(CLIENTS) as clients:
        report.routes = len(server.routes)

        def one(number: int) -> tuple[Case, Outcome]:
            case = make_case(number, server.routes, token=TOKEN)
            return case, attempt(server.port, case)

        part_size = max(1, -(-len(chosen) // LOOKS))
        for part in (chosen[at : at + part_size] for at in range(0, len(chosen), part_size)):
            for count, (case, outcome) in enumerate(clients.map(one, part)):
                report.kinds[case.kind] += 1
                report.statuses.update(outcome.statuses)
                where = f"case {case.number} ({case.kind}, {' '.join(case.route)})"
                report.findings += [f"{where}: {finding}" for finding in outcome.findings]
                if count % CONTROL_EVERY == 0:
                    report.findings += control(server.port)
            report.findings += control(server.port)
            report.states.append(server.settled())
        report.findings += left_behind(report.states[0], report.states[-1])
    if server.process.returncode != 0:
        report.findings.append(f"the server ended with {server.process.returncode}")
    return report


def control(port: int) -> list[str]:
    """A sound request must be answered as ever."""
    outcome = attempt(port, Case(-1, ("POST", "/v1/chat/completions"), "control", (Piece(_CONTROL),)))
    if outcome.findings or outcome.statuses != (200,):
        return [f"a sound request got {outcome.statuses} {outcome.findings}"]
    return []


def left_behind(first: dict[str, Any], last: dict[str, Any]) -> list[str]:
    """What should be gone and is not, and what was logged as an error."""
    found = [f"{last[name]} {name} left" for name in BUSY if last[name]]
    if last["threads"] > MAX_THREADS:
        found.append(f"{last['threads']} threads")
    if last["descriptors"] > first["descriptors"] + 4:
        found.append(f"{last['descriptors']} descriptors, {first['descriptors']} before")
    if last["resident"] - first["resident"] > MAX_GROWTH:
        found.append(f"{(last['resident'] - first['resident']) >> 20} MiB more memory")
    return found + [f"logged: {line}" for line in last["errors"]]
