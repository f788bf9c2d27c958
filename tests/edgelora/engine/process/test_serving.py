"""The server over an engine in a process of its own: what clients see of crashes, waits and hanging up."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from edgelora.runtime.service import Service
from tests.support.cli import make_library
from tests.support.engines import gone, started, wait_until
from tests.support.openers import opening
from tests.support.server import RunningServer, head_bytes, parse_reply, read_all, serving

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals")
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One place and one that may wait; twenty seconds for an answer."""
    library = make_library(tmp_path_factory.mktemp("home") / "home")
    able = {"max_sequences": 1, "max_outputs": 1}
    engine = started(opening(answer="x" * 1900, step_seconds=0.01, max_queue=1, budget=1 << 20, able=able))
    with Service(library, library.bases.current(), engine) as service:
        yield service
        engine.close()


@pytest.fixture
def server(service: Service, caplog: pytest.LogCaptureFixture) -> Iterator[RunningServer]:
    caplog.set_level(logging.CRITICAL, logger="edgelora.engine.process")
    with serving(service) as running:
        yield running


def post(server: RunningServer, *, stream: bool) -> socket.socket:
    body = json.dumps({**CHAT, "stream": stream}).encode()
    connection = server.connect()
    headers = {"Host": "localhost", "Content-Type": "application/json"}
    connection.sendall(head_bytes("POST", "/v1/chat/completions", headers, len(body)) + body)
    return connection


def kill(service: Service) -> None:
    pid = service.health().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("stream", [False, True])
def test_hanging_up_stops_the_other_process(server: RunningServer, service: Service, stream: bool) -> None:
    """Within a step of twenty seconds' work, streamed or not, running or still waiting."""
    running, waiting = post(server, stream=stream), post(server, stream=stream)
    wait_until(lambda: (service.stats().running, service.stats().queued) == (1, 1))
    full = server.post("/v1/chat/completions", CHAT)
    assert (full.status, full.error["code"]) == (429, "queue_full") and int(full.headers["retry-after"]) >= 1
    waiting.close()
    wait_until(lambda: (service.stats().running, service.stats().queued) == (1, 0))
    running.close()
    wait_until(lambda: (service.stats().running, service.stats().queued) == (0, 0))
    steps = service.stats().steps
    time.sleep(0.05)
    assert service.stats().steps == steps


def test_a_crash_in_the_middle_of_a_stream(server: RunningServer, service: Service) -> None:
    """An error frame at once; /health stays 200, /ready says why not, requests are told when to come back."""
    with post(server, stream=True) as connection:
        received = b""
        while b'"content":"x' not in received:
            received += connection.recv(4096)
        kill(service)
        frames = parse_reply(received + read_all(connection)).body.decode().strip().split("\n\n")
    error = json.loads(frames[-2].removeprefix("data: "))["error"]
    assert (error["code"], error["type"], frames[-1]) == ("engine_crash", "server_error", "data: [DONE]")
    assert service.health().state == "restarting"
    ready = server.request("GET", "/ready")
    refused = server.post("/v1/chat/completions", CHAT)
    assert (ready.status, ready.error["code"]) == (503, "not_ready") and "SIGKILL" in ready.error["message"]
    assert (refused.status, refused.error["code"]) == (503, "model_loading") and int(
        refused.headers["retry-after"]
    ) >= 1
    assert server.request("GET", "/health").status == 200
    assert [card.id for card in service.models()] == ["tiny", "medical-faq", "pirate"]
    wait_until(lambda: server.request("GET", "/ready").status == 200)


@pytest.mark.parametrize("begun", [False, True])
def test_a_crash_of_a_whole_answer(server: RunningServer, service: Service, begun: bool) -> None:
    """Nothing of it was shown, so the next process gives it, and the client sees no more than a longer wait."""
    tokens = service.stats().tokens
    body = json.dumps({**CHAT, "max_tokens": 30}).encode()
    with post(server, stream=True) as first, server.connect() as second:
        while b'"content":"x' not in first.recv(4096):
            pass
        if begun:
            first.close()
            wait_until(lambda: service.stats().running + service.stats().queued == 0)
            tokens = service.stats().tokens
        headers = {"Host": "localhost", "Content-Type": "application/json"}
        second.sendall(head_bytes("POST", "/v1/chat/completions", headers, len(body)) + body)
        wait_until(lambda: service.stats().tokens > tokens + 3 if begun else service.stats().queued == 1)
        kill(service)
        reply = parse_reply(read_all(second))
    assert (reply.status, reply.json["choices"][0]["message"]["content"]) == (200, "x" * 30)
    assert reply.json["usage"]["completion_tokens"] == 30


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("served") / "home"
    make_library(home)
    return home


def test_ctrl_c_reaches_the_server_alone(home: Path) -> None:
    """A terminal sends it to the whole group: the answer that runs is finished all the same, and nothing is left."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tests.system.chaos.host", str(home), str(port), "fake"]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(command, env=environ, start_new_session=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        wait_until(lambda: _get(port, "/ready") == 200)
        (child,) = _children(process.pid)
        body = b'{"model":"tiny","stream":true,"max_tokens":30,"messages":[{"role":"user","content":"Hi"}]}'
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            fields = {"Host": "localhost", "Content-Type": "application/json"}
            connection.sendall(head_bytes("POST", "/v1/chat/completions", fields, len(body)) + body)
            received = connection.recv(4096)
            os.killpg(process.pid, signal.SIGINT)
            received += read_all(connection)
        process.wait(20)
    assert process.returncode == 0 and b"data: [DONE]" in received and b'"error"' not in received
    wait_until(lambda: gone(child))


def _get(port: int, path: str) -> int:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(head_bytes("GET", path, {"Host": "localhost"}, 0))
        return parse_reply(read_all(connection)).status
    return 0


def _children(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children()]
