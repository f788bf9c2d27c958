"""`edgelora ps`: what is told of running servers, and that nothing running is said plainly."""

from __future__ import annotations

import json
import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from edgelora.cli.commands.ps import show
from edgelora.server.telemetry.instances import present
from edgelora.store.keys.management_token import ensure_token
from tests.support.cli import make_app, run
from tests.support.server import TEST_OPTIONS, serving
from tests.support.service import FakeService

ASK = {"model": "medical-faq", "messages": [{"role": "user", "content": "Hi"}]}


def test_nothing_runs(tmp_path: Path) -> None:
    """It says so, and that is no failure; a program gets an empty list."""
    app = make_app(EDGELORA_HOME=str(tmp_path))
    printed, data = run(app, "ps"), run(app, "ps", "--json")
    assert (printed.exit_code, printed.stdout, "No server is running." in printed.stderr) == (0, "", True)
    assert (data.exit_code, json.loads(data.stdout)) == (0, [])


def test_a_running_server_is_found_and_told(tmp_path: Path) -> None:
    """Its base, speed, memory, and a line for each adapter in memory."""
    app = make_app(EDGELORA_HOME=str(tmp_path))
    with (
        FakeService(tmp_path, adapters={"medical-faq": "Yes.", "pirate": None}) as service,
        serving(service) as server,
        present(tmp_path / "state", server.url),
    ):
        empty = run(app, "ps").stdout
        service.pin("pirate")
        server.post("/v1/chat/completions", ASK)
        printed = run(app, "ps").stdout.splitlines()
        (data,) = json.loads(run(app, "ps", "--json").stdout)
    assert "No adapter is in memory" in empty
    assert printed[0].startswith(f"{server.url}  tiny on fake; pid ") and "0 running, 0 waiting" in printed[1]
    assert "peak" in printed[1] and " of 1.0 MB" in printed[2]
    assert [line.split()[0] for line in printed[4:]] == ["medical-faq", "pirate"]
    assert "just now" in printed[4] and "never" in printed[5] and " yes " in printed[5]
    assert data["url"] == server.url and data["adapters"]["data"][0]["name"] == "medical-faq"


def test_a_server_that_is_not_ready(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Why is said, and how often its engine crashed; what is not there yet is left out."""
    with FakeService(tmp_path, adapters={}) as service, serving(service) as server:
        status = server.request("GET", "/v1/status").json
    engine = {"state": "restarting", "why": "The base is being loaded.", "restarts": 2, "pid": None}
    show({"url": server.url, **status, "ready": False, "engine": engine, "kv": {**status["kv"], "cells": 0}})
    printed = capsys.readouterr().out
    assert "not ready: The base is being loaded." in printed and "restarted 2 times" in printed and "KV" not in printed


def test_a_server_elsewhere(tmp_path: Path) -> None:
    """--url asks it, with or without the /v1 that clients are given."""
    app = make_app(EDGELORA_HOME=str(tmp_path))
    with FakeService(tmp_path, adapters={}) as service, serving(service) as server:
        for url in (server.url, f"{server.url}/", f"{server.url}/v1"):
            assert "tiny on fake" in run(app, "ps", "--url", url).stdout


def test_the_token_is_for_servers_of_this_installation(tmp_path: Path) -> None:
    """A server that was found automatically is queried with the token; a given URL never receives it."""
    app = make_app(EDGELORA_HOME=str(tmp_path))
    secrets = app.settings().directories.config
    ensure_token(secrets)
    with (
        FakeService(tmp_path, adapters={}) as service,
        serving(service, replace(TEST_OPTIONS, api_key="s3cret", secrets=secrets)) as server,
        present(tmp_path / "state", server.url),
    ):
        local, given = run(app, "ps"), run(app, "ps", "--url", server.url)
    assert "tiny on fake" in local.stdout
    assert (given.exit_code, "requires a key" in given.stderr) == (2, True)


def test_a_key_is_sent_where_one_is_known(tmp_path: Path) -> None:
    """Without it the refusal says which variable to set; the list goes on with the next server."""
    options = replace(TEST_OPTIONS, api_key="s3cret")
    home = str(tmp_path)
    with (
        FakeService(tmp_path, adapters={}) as service,
        serving(service, options) as server,
        present(tmp_path / "state", server.url),
    ):
        listed = run(make_app(EDGELORA_HOME=home), "ps")
        without_key = run(make_app(EDGELORA_HOME=home), "ps", "--url", server.url)
        with_key = run(make_app(EDGELORA_HOME=home, EDGELORA_API_KEY="s3cret"), "ps")
    assert (listed.exit_code, "EDGELORA_API_KEY" in listed.stdout) == (0, True)
    assert (without_key.exit_code, "EDGELORA_API_KEY" in without_key.stderr) == (2, True)
    assert "tiny on fake" in with_key.stdout


def test_a_server_that_does_not_answer(tmp_path: Path) -> None:
    """A port nobody listens on is exit 9, and says so."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    done = run(make_app(EDGELORA_HOME=str(tmp_path)), "ps", "--url", f"http://127.0.0.1:{port}")
    assert (done.exit_code, "no usable answer" in done.stderr) == (9, True)


@pytest.mark.parametrize("answer", [b"not JSON", b"[]", b'{"object": "list"}'])
def test_another_program_on_the_port(tmp_path: Path, answer: bytes) -> None:
    """Another program on the port is not mistaken for an edgelora server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def reply() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)

        thread = threading.Thread(target=reply)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        done = run(make_app(EDGELORA_HOME=str(tmp_path)), "ps", "--url", url)
        thread.join()
    assert done.exit_code == 9 and url in done.stderr


@pytest.mark.parametrize("url", ["localhost:8321", "file:///etc/hosts", "nonsense"])
def test_what_is_no_url(tmp_path: Path, url: str) -> None:
    """A usage error that shows how one is written; no file is read."""
    done = run(make_app(EDGELORA_HOME=str(tmp_path)), "ps", "--url", url)
    assert (done.exit_code, "http://localhost:8321" in done.stderr) == (2, True)
