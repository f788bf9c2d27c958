"""Starting and ending: what runs is finished, a deadline cuts it with a word, a second signal means now."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from edgelora.core.errors import UsageError
from edgelora.server.http.options import ServerOptions
from edgelora.server.run import run
from tests.support.server import TEST_OPTIONS, WAIT_SECONDS, head_bytes, parse_reply, read_all, serving
from tests.support.service import FakeService, Turnstile

ROOT = Path(__file__).parents[3]
STREAM = b'{"model":"tiny","stream":true,"messages":[{"role":"user","content":"Hi"}]}'
REQUEST = head_bytes(
    "POST", "/v1/chat/completions", {"Host": "localhost", "Content-Type": "application/json"}, len(STREAM)
)

CHILD = textwrap.dedent("""
    import sys, tempfile, time
    from pathlib import Path
    from edgelora.server.http.options import ServerOptions
    from edgelora.server.run import run
    from tests.support.service import FakeService, Turnstile

    from tests.support.fake_backend.tokenizer import FakeTokenizer

    class Slow(FakeTokenizer):
        def tokenize(self, text, *, special, bos):
            if "for ever" in text:
                time.sleep(600)
            return super().tokenize(text, special=special, bos=bos)

    permits, drain = int(sys.argv[1]), float(sys.argv[2])

    def ready(urls):
        print(urls[0], flush=True)

    def command():
        for line in sys.stdin:
            gate.open()

    import threading
    gate = Turnstile(permits)
    with tempfile.TemporaryDirectory() as folder, FakeService(Path(folder), adapters={}) as service:
        service.backend.step_gate = gate
        service.backend.tokenizer = Slow()
        threading.Thread(target=command, daemon=True).start()
        ended = run(service, ServerOptions(host="127.0.0.1", port=0, drain_seconds=drain), on_ready=ready)
        gate.open()
    print("ended", ended, flush=True)
""")


@contextmanager
def _child(*, permits: int, drain: float) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server in a process of its own, and its port. It computes `permits` steps until told to go on."""
    paths = [ROOT, ROOT / "converters", ROOT / "models"]
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(permits), str(drain)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline().rpartition(":")[2])
        finally:
            with suppress(ProcessLookupError):
                process.kill()


def _begin_stream(port: int) -> tuple[socket.socket, bytes]:
    """A stream whose first token has been read."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS)
    connection.sendall(REQUEST + STREAM)
    received = b""
    while b'"content":"H' not in received:
        received += connection.recv(4096)
    return connection, received


def _wait_closed(port: int) -> None:
    """Until no new connection is taken."""
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS).close()
        except OSError:
            return
        time.sleep(0.01)


def _frames(connection: socket.socket, received: bytes) -> list[str]:
    with connection:
        return parse_reply(received + read_all(connection)).body.decode().strip().split("\n\n")


def _end(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, _ = process.communicate(timeout=WAIT_SECONDS)
    return process.returncode, out.strip()


def test_sigterm_finishes_what_runs() -> None:
    """After SIGTERM nothing new is taken, the running answer is given to its end, and the process ends well."""
    with _child(permits=6, drain=60) as (process, port):
        connection, received = _begin_stream(port)
        process.send_signal(signal.SIGTERM)
        _wait_closed(port)
        assert process.stdin is not None
        process.stdin.write("go on\n")
        process.stdin.flush()
        frames = _frames(connection, received)
        assert '"finish_reason":"stop"' in frames[-2] and frames[-1] == "data: [DONE]"
        assert _end(process) == (0, f"ended {int(signal.SIGTERM)}")


def test_the_deadline_cuts_with_an_error_frame() -> None:
    """A stream that is cut at the deadline ends with an error frame."""
    with _child(permits=6, drain=0.2) as (process, port):
        connection, received = _begin_stream(port)
        process.send_signal(signal.SIGTERM)
        frames = _frames(connection, received)
        assert json.loads(frames[-2].removeprefix("data: "))["error"]["code"] == "shutting_down"
        assert _end(process) == (0, f"ended {int(signal.SIGTERM)}")


def test_a_second_signal_means_now() -> None:
    """Whoever asks twice does not wait for the deadline; the clients still get their error frame."""
    with _child(permits=6, drain=600) as (process, port):
        connection, received = _begin_stream(port)
        process.send_signal(signal.SIGINT)
        _wait_closed(port)
        process.send_signal(signal.SIGINT)
        frames = _frames(connection, received)
        assert json.loads(frames[-2].removeprefix("data: "))["error"]["code"] == "shutting_down"
        assert _end(process) == (0, f"ended {int(signal.SIGINT)}")


def test_a_third_signal_ends_whatever_runs() -> None:
    """A thread that tokenizes for ever cannot be interrupted; the process leaves without it."""
    body = b'{"content":"for ever"}'
    head = head_bytes("POST", "/tokenize", {"Host": "localhost", "Content-Type": "application/json"}, len(body))
    with (
        _child(permits=6, drain=600) as (process, port),
        socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS) as connection,
    ):
        connection.sendall(head + body)
        streaming, _ = _begin_stream(port)
        with streaming:
            process.send_signal(signal.SIGTERM)
            _wait_closed(port)
            process.send_signal(signal.SIGTERM)
            assert b"shutting_down" in read_all(streaming)
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_SECONDS) == 128 + signal.SIGTERM


def test_whole_answers_are_cut_with_a_status(tmp_path: Path) -> None:
    """A client that waits for a whole answer gets 503 and is told to come back."""
    gate = Turnstile()
    with FakeService(tmp_path, adapters={}) as service:
        service.backend.step_gate = gate
        try:
            with serving(service, replace(TEST_OPTIONS, drain_seconds=0.05)) as server:
                connection = server.connect()
                body = STREAM.replace(b"true", b"false")
                connection.sendall(REQUEST.replace(b": %d" % len(STREAM), b": %d" % len(body)) + body)
                assert service.backend.stepping.wait(WAIT_SECONDS)
                server.server.stop()
                with connection:
                    reply = parse_reply(read_all(connection))
        finally:
            gate.open()
    assert (reply.status, reply.error["code"]) == (503, "shutting_down") and "retry-after" in reply.headers


def test_localhost_answers_on_every_loopback_address(tmp_path: Path) -> None:
    """A client that looks localhost up as ::1 finds the server where there is IPv6."""
    answers = []

    def ask(urls: list[str]) -> None:
        for url in urls:
            host, _, port = url.removeprefix("http://").rpartition(":")
            threading.Thread(target=get, args=(host.strip("[]"), int(port), len(urls))).start()

    def get(host: str, port: int, expected: int) -> None:
        with socket.create_connection((host, port), timeout=WAIT_SECONDS) as connection:
            connection.sendall(head_bytes("GET", "/health", {"Host": f"localhost:{port}"}, 0))
            answers.append(parse_reply(read_all(connection)).status)
        if len(answers) == expected:
            signal.raise_signal(signal.SIGINT)

    with FakeService(tmp_path, adapters={}) as service:
        assert run(service, ServerOptions(port=0), on_ready=ask) == signal.SIGINT
    assert answers and set(answers) == {200}


def test_run_refuses_before_it_serves(tmp_path: Path) -> None:
    """Options that cannot be right end `run` at once, and leave no socket open."""
    with FakeService(tmp_path, adapters={}) as service:
        for options, code in [
            (ServerOptions(host="0.0.0.0", port=0), "api_key_required"),
            (ServerOptions(port=0, allow_origins=("*",)), "bad_origin"),
        ]:
            with pytest.raises(UsageError) as caught:
                run(service, options, on_ready=print)
            assert caught.value.code == code


def test_what_is_done_meanwhile(tmp_path: Path) -> None:
    """It begins once requests are taken; what it raises ends the server and is raised."""
    seen: list[str] = []
    with FakeService(tmp_path, adapters={}) as service:

        def fail() -> None:
            seen.append("meanwhile")
            raise UsageError("bad_base", "It cannot be opened.")

        with pytest.raises(UsageError, match="cannot be opened"):
            run(service, ServerOptions(port=0), on_ready=lambda _: seen.append("ready"), meanwhile=fail)
        assert seen == ["ready", "meanwhile"]

        def ready(_urls: list[str]) -> None:
            signal.raise_signal(signal.SIGINT)

        assert run(service, ServerOptions(port=0), on_ready=ready, meanwhile=lambda: None) == signal.SIGINT
