"""`edgelora serve`: what it refuses early, what it says, how it ends. HTTP itself is tested with the server."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from edgelora.cli.commands.serve import announce
from edgelora.server import run as server_run
from tests.support.cli import make_app, run, script
from tests.support.service import FakeService


def test_busy_port() -> None:
    """A port that is taken is exit 8 before a base is loaded, and says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run(make_app(), "serve", "--port", str(taken.getsockname()[1]))
    assert (done.exit_code, "--port" in done.stderr) == (8, True)


def test_other_machines_need_a_key() -> None:
    """Listening off this machine without a key is exit 2 before a base is loaded."""
    done = run(make_app(), "serve", "--host", "0.0.0.0", "--port", "0")
    assert (done.exit_code, "EDGELORA_API_KEY" in done.stderr) == (2, True)


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_bad_port(port: str) -> None:
    """A port that cannot be one is a usage error."""
    assert run(make_app(), "serve", "--port", port).exit_code == 2


@pytest.mark.parametrize(
    ("host", "url", "expected"),
    [
        ("localhost", "http://127.0.0.1:8321", "http://localhost:8321/v1"),
        ("::1", "http://[::1]:9", "http://[::1]:9/v1"),
    ],
)
def test_announcement(tmp_path: Path, capsys: pytest.CaptureFixture[str], host: str, url: str, expected: str) -> None:
    """It says what is served and which base URL a client takes."""
    with FakeService(tmp_path, adapters={f"a{n}": None for n in range(10)}) as service:
        announce(service, [url], host)
    out, err = capsys.readouterr()
    assert out == ""
    assert "tiny and 10 adapters: a0, a1," in err and f"OPENAI_BASE_URL={expected}" in err


def test_announcement_of_pins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The pinned adapters are announced."""
    with FakeService(tmp_path, adapters={"a": None, "b": None}) as service:
        service.pin("b")
        announce(service, ["http://127.0.0.1:1"], "localhost")
    assert "  pinned: b\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "environ", "expected"),
    [
        (["--pin", "a", "--pin", "b", "--pin", "a"], {}, ["a", "b"]),
        ([], {"EDGELORA_PIN": "b,a"}, ["b", "a"]),
        (["--pin", "a"], {"EDGELORA_PIN": "b"}, ["a"]),
        ([], {}, []),
    ],
)
def test_pins(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    environ: dict[str, str],
    expected: list[str],
) -> None:
    """Loaded before anything is served, in this order, each once; the option takes the setting's place."""
    pinned: list[str] = []
    monkeypatch.setattr(server_run, "run", lambda service, options, *, on_ready, meanwhile: pinned.append("served"))
    with FakeService(tmp_path, adapters={"a": None, "b": None}) as service:
        monkeypatch.setattr(service, "pin", pinned.append)
        done = run(make_app(service=service, **environ), "serve", "--port", "0", *arguments)
    assert (done.exit_code, pinned) == (0, [*expected, "served"])


def test_a_pin_that_is_unknown(tmp_path: Path) -> None:
    """Exit 3 with near names, and nothing is served."""
    with FakeService(tmp_path, adapters={"medical-faq": None}) as service:
        done = run(make_app(service=service), "serve", "--port", "0", "--pin", "medical-fax")
    assert (done.exit_code, "medical-faq" in done.stderr, "Serving" in done.stderr) == (3, True, False)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
def test_serves_until_a_signal(tmp_path: Path) -> None:
    """It serves on the port it tells, and SIGINT ends it with 0."""
    command = [*script(tmp_path, answer="Hello."), "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        output = ""
        while not (match := re.search(r"OPENAI_BASE_URL=(http://\S+/v1)\n", output)):
            line = running.stderr.readline()
            assert line, output
            output += line
        with urllib.request.urlopen(f"{match[1]}/models") as reply:
            models = [model["id"] for model in json.load(reply)["data"]]
        running.send_signal(signal.SIGINT)
        out, _ = running.communicate(timeout=30)
    assert (running.returncode, out) == (0, "")
    assert models == ["tiny", "medical-faq", "pirate"]
