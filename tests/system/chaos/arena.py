"""One server, its clients, and who kills what when. Owns the processes; judges what they leave behind."""

from __future__ import annotations

import http.client
import io
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from edgelora.core.config import read_settings
from edgelora.core.files import sweep
from edgelora.store.library import Library, open_library
from edgelora_models.storage import TEMP_PREFIX
from tests.support.adapters import write_peft
from tests.system.chaos.clients import Clients, Record, Uploads

MARK = "EDGELORA_CHAOS"
START_SECONDS = 60.0
GONE_SECONDS = 20.0
SERVER_SHARE = 0.2
"""Of the kills; the others are the engine's process."""
DAY = 25 * 3600.0


@dataclass(slots=True)
class Server:
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def engine(self) -> psutil.Process | None:
        try:
            children = psutil.Process(self.process.pid).children()
        except psutil.NoSuchProcess:
            return None
        return next((child for child in children if "edgelora.engine.process.worker" in _command(child)), None)


class Arena:
    def __init__(self, folder: Path, *, kind: str, seed: int) -> None:
        self.record = Record()
        self._home = folder / "home"
        self._kind = kind
        self._draw = random.Random(seed)
        self._mark = uuid.uuid4().hex
        self._port = _free_port()
        self._library = open_library(read_settings({"EDGELORA_HOME": str(self._home)}))
        base, settings = self._library.bases.current(), self._library.settings
        uploads = Uploads(_archives(folder, self._library), base.name, settings.directories.config / "token")
        models = [base.name, *self._library.store.names()]
        self._shared = _shared_memory()
        self._server = self._start()
        self._clients = Clients(self._port, models, seed=seed, record=self.record, uploads=uploads)

    def run(self, count: int) -> None:
        """Kill `count` times, then see what is left."""
        self._wait_ready()
        self._clients.start()
        for _ in range(count):
            time.sleep(self._draw.uniform(0.0, 0.7))
            if self._draw.random() < SERVER_SHARE:
                self._kill_server()
            else:
                self._kill_engine()
        self._wait_ready()
        served = self._served()
        if not _comes(lambda: self._served() > served, START_SECONDS):
            self.record.find("nobody is served any more")
        self._clients.stop()
        self._end()

    def _served(self) -> int:
        return self.record.counts["answer 200"] + self.record.counts["stream whole"]

    def _start(self) -> Server:
        with (self._home / "server.log").open("ab") as log:
            command = [sys.executable, "-m", "tests.system.chaos.host", str(self._home), str(self._port), self._kind]
            environ = os.environ | {MARK: self._mark, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
            return Server(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, env=environ))

    def _kill_engine(self) -> None:
        """Whatever it does: it may be starting, or not be there."""
        deadline = time.monotonic() + START_SECONDS
        while (engine := self._server.engine()) is None and time.monotonic() < deadline:
            if self._server.process.poll() is not None:
                self.record.find(f"the server ended by itself: {self._server.process.returncode}")
                self._server = self._start()
            time.sleep(0.005)
        if engine is None:
            self.record.find("no engine came back")
            return
        with suppress(psutil.NoSuchProcess):
            engine.kill()
        self.record.count("killed: engine")
        if self._draw.random() < 0.7:  # Else the next kill finds it starting.
            self._wait_ready()

    def _kill_server(self) -> None:
        self._server.kill()
        self.record.count("killed: server")
        if not _comes(lambda: not list(self._marked()), GONE_SECONDS):
            self.record.find(f"left without a server: {[_command(one) for one in self._marked()]}")
        self._server = self._start()
        if self._draw.random() < 0.7:
            self._wait_ready()

    def _wait_ready(self) -> None:
        if not _comes(lambda: self._get("/ready") == 200, START_SECONDS):
            self.record.find("the server is not ready again")
        if self._get("/health") != 200:
            self.record.find("/health was not 200 while /ready was")

    def _get(self, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def _end(self) -> None:
        self._server.process.terminate()
        try:
            code = self._server.process.wait(GONE_SECONDS)
        except subprocess.TimeoutExpired:
            self.record.find("SIGTERM did not end the server")
            self._server.kill()
        else:
            if code != 0:
                self.record.find(f"SIGTERM ended the server with {code}")
        if not _comes(lambda: not list(self._marked()), GONE_SECONDS):
            self.record.find(f"left behind: {[_command(one) for one in self._marked()]}")
        self._check_disk()
        if new := _shared_memory() - self._shared:
            self.record.find(f"shared memory left behind: {new}")

    def _check_disk(self) -> None:
        library = open_library(read_settings({"EDGELORA_HOME": str(self._home)}))
        self.record.findings += [f"the store: {problem.what}" for problem in library.store.verify()]
        self.record.findings += [f"in quarantine: {one.name}" for one in library.quarantine().list()]
        log = (self._home / "server.log").read_text(errors="replace").partition("Traceback")
        if log[1]:
            self.record.find("logged: " + "\n".join(log[2].splitlines()[:40]))
        # What a killed process was writing is there for a day, and then swept.
        for folder in {path.parent for path in self._home.rglob(f"{TEMP_PREFIX}*")}:
            sweep(folder, now=time.time() + DAY)
        left = [str(path) for path in self._home.rglob(f"{TEMP_PREFIX}*")]
        self.record.findings += [f"never swept: {path}" for path in left[:5]]

    def _marked(self) -> Iterator[psutil.Process]:
        """Processes of this run that are alive."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == self._mark:
                    yield process


def chaos(count: int, *, kind: str, seed: int) -> Record:
    folder = Path(tempfile.mkdtemp(prefix="edgelora-chaos-"))
    try:
        arena = Arena(folder, kind=kind, seed=seed)
        arena.run(count)
        return arena.record
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _archives(folder: Path, library: Library) -> tuple[bytes, ...]:
    shape = library.bases.current().identity.fingerprint.shape
    made = []
    for seed in range(3):
        source = write_peft(folder / f"source-{seed}", shape, rank=8, seed=seed)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for path in sorted(source.iterdir()):
                archive.write(path, path.name)
        made.append(buffer.getvalue())
    return tuple(made)


def _comes(holds: object, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():  # type: ignore[operator]
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _shared_memory() -> set[str]:
    """Named segments and semaphores of any process that look like Python's, or ours."""
    folder = Path("/dev/shm")
    names = (path.name for path in folder.iterdir()) if folder.is_dir() else ()
    return {name for name in names if name.startswith(("psm_", "sem.", "edgelora"))}
