"""`edgelora doctor`: each check tells what is wrong and what to do, and one failure is exit 1."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from edgelora.cli.commands import doctor_checks
from edgelora.cli.commands.doctor_checks import Level
from edgelora.core import machine
from edgelora.core.config import read_settings
from edgelora.core.errors import BaseError
from edgelora.server.http import sockets
from edgelora.server.http.options import ServerOptions
from edgelora.store.adapters.store import Store
from edgelora.store.library import Library
from tests.support.cli import make_app, run
from tests.support.service import FakeService


def statuses(stdout: str) -> dict[str, str]:
    return {check["name"]: check["status"] for check in json.loads(stdout)["checks"]}


def test_all_is_well(installed: Library, service: FakeService) -> None:
    """Every area is looked at, each line has its mark, and the exit code is 0."""
    done = run(make_app(installed, service), "doctor")
    assert (done.exit_code, done.stderr) == (0, "All is well.\n")
    lines = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert all(line.split()[0] in ("ok", "warn") for line in lines)
    printed = {line[6:22].strip() for line in lines}
    assert {
        "edgelora",
        "python",
        "llama-cpp-python",
        "numpy",
        "mlx",
        "cpu",
        "kernel",
        "disk",
        "network",
        "port",
    } <= printed
    assert {"data folder", "cache folder", "state folder", "store", "base", "backend", "memory", "engine"} <= printed


def test_json(installed: Library, service: FakeService) -> None:
    """--json has every check with name, status, detail and remedy."""
    printed = json.loads(run(make_app(installed, service), "doctor", "--json").stdout)
    assert printed["healthy"] is True
    assert all(check.keys() == {"name", "status", "detail", "remedy"} for check in printed["checks"])


def test_engine_that_fails(installed: Library, service: FakeService) -> None:
    """An engine that cannot answer is a failed check with its reason, not a failed doctor."""
    service.backend.fail_steps = set(range(100))
    done = run(make_app(installed, service), "doctor", "--json")
    assert done.exit_code == 1
    assert statuses(done.stdout)["engine"] == "fail"


def test_library_that_fails(installed: Library) -> None:
    """If the store cannot be opened, the checks that do not need it are still printed."""
    app = make_app(installed)

    def broken(*_: object, **__: object) -> Library:
        raise BaseError("no_base", "There is none.", "Get one.")

    app.library = broken
    done = run(app, "doctor", "--json")
    assert done.exit_code == 1
    printed = statuses(done.stdout)
    assert (printed["store"], printed["python"]) == ("fail", "ok") and "engine" not in printed


def test_damaged_store(library: Library, service: FakeService) -> None:
    """A file of the store that is not what was written is a failure that names it."""
    blob = next(path for path in library.store.root.glob("blobs/sha256/*/*") if path.stat().st_size > 10_000)
    blob.write_bytes(b"\0" + blob.read_bytes()[1:])
    done = run(make_app(library, service), "doctor")
    assert (done.exit_code, "1 of " in done.stderr) == (1, True)
    assert str(blob) in done.stdout


def test_an_adapter_with_a_base_s_name(library: Library, service: FakeService) -> None:
    """A store of an older version may have one; the check says that the base answers, and how to rename it."""
    Store(library.store.root).add(
        library.settings.directories.data.parent / "sources" / "pirate", name="tiny", base=library.bases.get("tiny")
    )
    checks = json.loads(run(make_app(library, service), "doctor", "--json").stdout)["checks"]
    (check,) = [check for check in checks if check["name"] == "names"]
    assert check["status"] == "warn" and "tiny" in check["detail"] and "edgelora export tiny" in check["remedy"]


def test_base_that_is_gone(library: Library, service: FakeService) -> None:
    """A base whose file is gone is a failure that says what to do."""
    library.bases.current().path.unlink()
    printed = json.loads(run(make_app(library, service), "doctor", "--json").stdout)
    (base,) = (check for check in printed["checks"] if check["name"] == "base")
    assert base["status"] == "fail" and "edgelora base use" in base["remedy"]


def test_offline_is_told(installed: Library, service: FakeService) -> None:
    """The network is not touched, only the setting told."""
    done = run(make_app(installed, service), "--offline", "doctor")
    assert "offline: nothing is downloaded" in done.stdout


def test_taken_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that is taken is a warning: another may be chosen."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = ServerOptions(host="127.0.0.1", port=taken.getsockname()[1])
        bind = sockets.bind
        monkeypatch.setattr(sockets, "bind", lambda _: bind(options))
        check = doctor_checks.port()
    assert check.status is Level.WARN and "--port" in check.remedy


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A folder that cannot be made is a failure; one that can is fine before it exists."""
    (tmp_path / "file").write_text("")
    assert doctor_checks.directory("data", tmp_path / "file" / "below").status is Level.FAIL
    assert doctor_checks.directory("data", tmp_path / "new" / "below").status is Level.OK
    assert not (tmp_path / "new").exists()


def test_too_little_memory(installed: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base that cannot be loaded is a failure with the numbers; one that others would suffer from is a warning."""
    record = installed.bases.current()
    import msgspec

    huge = msgspec.structs.replace(record, identity=replace(record.identity, nbytes=1 << 60))
    check = doctor_checks.memory(installed.settings, huge)
    assert check.status is Level.FAIL and "EDGELORA_MEMORY_CHECK" in check.remedy
    total = machine.memory().total
    large = msgspec.structs.replace(record, identity=replace(record.identity, nbytes=total - (1 << 20)))
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(total, 1 << 25))
    check = doctor_checks.memory(replace(installed.settings, weights="mapped"), large)
    assert check.status is Level.WARN and "base use" in check.remedy


def test_low_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Little space left is a warning."""
    monkeypatch.setattr(doctor_checks, "free_bytes", lambda _: 1000)
    statuses_by_name = {
        check.name: check for check in doctor_checks.directory_checks(read_settings({"EDGELORA_HOME": str(tmp_path)}))
    }
    assert statuses_by_name["disk"].status is Level.WARN


def test_missing_package() -> None:
    """A package that is needed and not there is a failure; one that is not needed is fine."""
    assert doctor_checks.package("no-such-package", needed=True).status is Level.FAIL
    assert doctor_checks.package("no-such-package", needed=False).status is Level.OK


def test_unknown_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that does not say what it can is a warning at most."""
    monkeypatch.setattr(doctor_checks, "cpu_features", frozenset)
    monkeypatch.setattr(doctor_checks.platform, "machine", lambda: "x86_64")
    assert doctor_checks.cpu().status is Level.WARN
    monkeypatch.setattr(doctor_checks.platform, "machine", lambda: "arm64")
    assert doctor_checks.cpu().status is Level.OK
