"""The servers under test, as processes: edgelora's own, and a llama-server where one is given. Started, asked, stopped.

Both get the same base and adapter files, threads, context and number of sequences, and greedy requests of token ids
whose answers have a given length. What each one's frames say is told here and nowhere else.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from benchmarks.harness.client import Exchange, Post, post_json
from benchmarks.harness.machine import anonymous_bytes
from benchmarks.harness.workload import Job

START_SECONDS = 600.0
"""For a start: a base of gigabytes is read from a slow disk."""
STOP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What an exchange brought, where it was a whole answer."""

    tokens: int
    """As the server counts them."""
    times: list[float]
    """When each piece of text came, time.monotonic; one token each, but for halves of characters."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What both servers are given."""

    context: int
    """Tokens of one sequence; the KV holds two such."""
    sequences: int
    threads: int | None

    @property
    def kv_cells(self) -> int:
        return 2 * self.context


class Target(Protocol):
    name: str
    port: int

    @property
    def pid(self) -> int: ...

    def write(self, job: Job) -> Post: ...

    def read(self, exchange: Exchange) -> Answer | None:
        """None where no whole answer came."""
        ...


class Server:
    """A child process that listens on loopback, its output in a file. A context manager: leaving it stops the child."""

    name = ""

    def __init__(self, command: Sequence[str], *, environ: dict[str, str] | None = None) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="bench")
        self._log = Path(self._scratch.name, "log")
        self._said: str | None = None
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                command, env={**os.environ, **(environ or {})}, stdout=log, stderr=subprocess.STDOUT
            )
        self.port = 0

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def memory(self) -> Memory:
        return memory_of(self.pid)

    def output(self) -> str:
        return self._log.read_text("utf-8", "replace") if self._said is None else self._said

    def stop(self) -> None:
        """Ask, then insist. What it said stays readable."""
        self._child.terminate()
        try:
            self._child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._said = self.output()
        self._scratch.cleanup()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait(self, ready: Any) -> None:
        """Until `ready()` is true. Raises RuntimeError with what the child said where it ends before."""
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if self._child.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"{self.name} did not start:\n{self.output()[-2000:]}")
            time.sleep(0.05)


class EdgeloraServer(Server):
    """`edgelora serve` on the base chosen in `home`, its adapters known by `names`, as
    benchmarks.harness.endless runs it.
    """

    name = "edgelora"

    def __init__(
        self,
        home: Path,
        names: Sequence[str],
        limits: Limits,
        *,
        module: str = "benchmarks.harness.endless",
        engine: str = "child",
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """`engine`: where it computes, as `serve --engine` has it."""
        self._counts = (0, 0)
        self._names = list(names)
        self._base = ""
        variables = {
            **(environ or {}),
            "EDGELORA_HOME": str(home),
            "EDGELORA_OFFLINE": "1",
            "EDGELORA_CONTEXT": str(limits.context),
            "EDGELORA_SEQUENCES": str(limits.sequences),
            "PYTHONUNBUFFERED": "1",
        }
        if limits.threads is not None:
            variables["EDGELORA_THREADS"] = str(limits.threads)
        command = [sys.executable, "-m", module, "serve", "--host", "127.0.0.1", "--port", "0", "--engine", engine]
        super().__init__(command, environ=variables)
        self._wait(self._ready)
        self._base = next(card["id"] for card in self.models() if card["parent"] is None)

    def models(self) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/models", timeout=60) as reply:
            return list(json.load(reply)["data"])

    @property
    def counts(self) -> tuple[int, int]:
        """Adapters loaded and evicted, once it has been stopped."""
        return self._counts

    def stop(self) -> None:
        with suppress(OSError):  # one that died has nothing to say
            self._counts = self._sum("adapter_loads_total"), self._sum("adapter_evictions_total")
        super().stop()

    def _sum(self, metric: str) -> int:
        """Of a metric over all adapters."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=60) as reply:
            lines = reply.read().decode().splitlines()
        return sum(int(float(line.rpartition(" ")[2])) for line in lines if line.startswith(f"edgelora_{metric}{{"))

    def write(self, job: Job) -> Post:
        model = self._base if job.adapter is None else self._names[job.adapter]
        body = {"model": model, "prompt": list(job.prompt), "max_tokens": job.output, "temperature": 0}
        return post_json("/v1/completions", {**body, "stream": True, "stream_options": {"include_usage": True}})

    def read(self, exchange: Exchange) -> Answer | None:
        times: list[float] = []
        tokens = 0
        for at, frame in _values(exchange):
            if frame.get("usage"):
                tokens = frame["usage"]["completion_tokens"]
            if any(choice["text"] for choice in frame.get("choices", ())):
                times.append(at)
        return Answer(tokens, times) if tokens and times else None

    def _ready(self) -> bool:
        found = [line for line in self.output().splitlines() if "OPENAI_BASE_URL=" in line]
        if not found:
            return False
        self.port = int(found[0].rpartition(":")[2].partition("/")[0])
        return _answers(f"http://127.0.0.1:{self.port}/ready")


class LlamaServer(Server):
    """A llama-server that has all `adapters` from the start; a request turns one of them on.

    The whole KV is shared, as edgelora's is. Its cache of prompts in memory is off: no prompt of these benchmarks comes
    twice, so it could only cost.
    """

    name = "llama-server"

    def __init__(self, binary: Path, base: Path, adapters: Sequence[Path], limits: Limits) -> None:
        self._links = tempfile.TemporaryDirectory(prefix="ls")  # short names: the list is one argument
        self._adapters = len(adapters)
        links = [Path(self._links.name, f"{number}") for number in range(len(adapters))]
        for link, path in zip(links, adapters, strict=True):
            link.symlink_to(path.resolve())
        port = _free_port()
        command = [str(binary), "--model", str(base), "--host", "127.0.0.1", "--port", str(port)]
        command += ["--ctx-size", str(limits.kv_cells), "--parallel", str(limits.sequences), "--kv-unified"]
        command += ["--gpu-layers", "0", "--flash-attn", "on", "--cache-ram", "0", "--no-webui"]
        if limits.threads is not None:
            command += ["--threads", str(limits.threads)]
        if links:
            command += ["--lora-init-without-apply", "--lora", ",".join(map(str, links))]
        super().__init__(command)
        self.port = port
        self._wait(self._healthy)

    def stop(self) -> None:
        super().stop()
        self._links.cleanup()

    def write(self, job: Job) -> Post:
        lora = [] if job.adapter is None else [{"id": job.adapter, "scale": 1.0}]
        body = {"prompt": list(job.prompt), "n_predict": job.output, "temperature": 0, "ignore_eos": True, "lora": lora}
        return post_json("/completion", {**body, "stream": True})

    def read(self, exchange: Exchange) -> Answer | None:
        times: list[float] = []
        tokens = 0
        for at, frame in _values(exchange):
            if frame.get("stop"):
                tokens = frame["tokens_predicted"]
            elif frame.get("tokens"):
                times.append(at)
        return Answer(tokens, times) if tokens and times else None

    def _healthy(self) -> bool:
        return _answers(f"http://127.0.0.1:{self.port}/health")


@dataclass(frozen=True, slots=True)
class Memory:
    resident: int
    """Bytes, pages shared with others and of mapped files included."""
    anonymous: int
    """Of these what belongs to no file. (A proportional set would shrink as soon as another server maps the base.)"""


def memory_of(pid: int) -> Memory:
    """Of a server with the processes that it started."""
    own = psutil.Process(pid)
    family = [own, *own.children(recursive=True)]
    return Memory(sum(one.memory_info().rss for one in family), sum(anonymous_bytes(one.pid) for one in family))


def _values(exchange: Exchange) -> Iterator[tuple[float, dict[str, Any]]]:
    if exchange.status != 200 or exchange.ended is None:
        return
    for at, data in exchange.frames:
        if data != b"[DONE]":
            yield at, json.loads(data)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
