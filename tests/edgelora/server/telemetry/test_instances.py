"""Running servers are found; what killed ones left is not taken for one."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from edgelora.server.telemetry.instances import ServerInstance, present, running

OWN = ServerInstance("http://127.0.0.1:1", os.getpid(), psutil.Process().create_time())


def leave(state: Path, one: ServerInstance) -> Path:
    """A file as a server that ended without a word leaves it."""
    path = state / "servers" / f"{one.pid}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(one)))
    return path


def test_it_is_there_while_the_server_runs(tmp_path: Path) -> None:
    """With its URL and process; afterwards nothing is left."""
    with present(tmp_path, OWN.url):
        assert running(tmp_path) == [OWN]
    assert running(tmp_path) == [] and not list((tmp_path / "servers").iterdir())


def test_nothing_was_ever_started(tmp_path: Path) -> None:
    """No folder is no server, and none is made by asking."""
    assert running(tmp_path) == [] and not list(tmp_path.iterdir())


def test_a_killed_server_is_not_found(tmp_path: Path) -> None:
    """Its process is gone: the file goes too."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    began = psutil.Process(child.pid).create_time()
    child.wait()
    path = leave(tmp_path, ServerInstance("http://127.0.0.1:1", child.pid, began))
    assert running(tmp_path) == [] and not path.exists()


def test_another_process_with_its_number_is_not_it(tmp_path: Path) -> None:
    """Process ids come again: the time the process began tells them apart."""
    path = leave(tmp_path, replace(OWN, process_began=OWN.process_began - 3600))
    assert running(tmp_path) == [] and not path.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": 1}', '{"url": "x", "pid": "y", "process_began": 0}'])
def test_a_damaged_file_is_none(tmp_path: Path, text: str) -> None:
    """A file that a full disk or another hand made is no server, and no crash."""
    path = leave(tmp_path, OWN)
    path.write_text(text)
    assert running(tmp_path) == [] and not path.exists()


def test_a_state_folder_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The server runs all the same, and says that it will not be found."""
    (tmp_path / "state").write_text("a file in the way")
    with caplog.at_level(logging.WARNING), present(tmp_path / "state", OWN.url):
        assert "edgelora ps" in caplog.text
