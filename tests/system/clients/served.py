"""`edgelora serve` as a user starts it, with a home of its own, a hub to pull from, and an adapter to upload."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgelora_models import builtin
from tests.support.hub import Repo, running_hub

START_SECONDS = 180.0
REPOSITORY = "some-org/medical-faq"
UPLOADED = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True, slots=True)
class Served:
    url: str
    environment: dict[str, str]
    """What the clients' scripts are told."""


@contextmanager
def serving(folder: Path, *, origin: str) -> Iterator[Served]:
    """The server, over the built-in base, until the block is left. `origin`: of a page that may call it."""
    source = builtin.adapters()["medical-faq"]
    files = {name: (source / name).read_bytes() for name in UPLOADED}
    archive = folder / "adapter.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for name, data in files.items():
            target.writestr(name, data)
    home = folder / "home"
    with running_hub() as hub:
        hub.repos[REPOSITORY] = Repo(files)
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("EDGELORA_", "HF_"))}
        environment |= {"EDGELORA_HOME": str(home), "EDGELORA_THREADS": "1", "HF_ENDPOINT": hub.url}
        with _started(environment, folder / "log", origin) as url:
            token = (home / "token").read_text(encoding="utf-8").strip()
            told = {
                "EDGELORA_TOKEN": token,
                "EDGELORA_ARCHIVE": str(archive),
                "EDGELORA_REPOSITORY": REPOSITORY,
                "OPENAI_BASE_URL": f"{url}/v1",
                "GROQ_BASE_URL": url,
                "GROQ_API_KEY": token,
                "TOGETHER_BASE_URL": url,
                "TOGETHER_API_KEY": token,
                "TOGETHER_PROJECT_ID": "mine",
            }
            yield Served(url, {**os.environ, **told})


@contextmanager
def _started(environment: dict[str, str], log: Path, origin: str) -> Iterator[str]:
    """The URL of a server that is ready."""
    command = [sys.executable, "-m", "edgelora", "serve", "--port", "0", "--allow-origin", origin]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        url = _address(process, log)
        _wait_ready(url)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    for _ in range(int(START_SECONDS / 0.1)):
        found = re.search(r"OPENAI_BASE_URL=(http://\S+)/v1", log.read_text(encoding="utf-8"))
        if found:
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"the server did not start:\n{log.read_text(encoding='utf-8')}")


def _wait_ready(url: str) -> None:
    """It listens before its base is in memory."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"{url}/ready", timeout=10).close()
            return
        except urllib.error.HTTPError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
