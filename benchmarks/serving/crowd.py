"""Many clients at once: what each was told, what the server's memory did meanwhile. And how fast a list is given."""

from __future__ import annotations

import asyncio
import random
import time

from benchmarks.harness.client import Exchange, exchange
from benchmarks.harness.homes import Home
from benchmarks.harness.report import quantile
from benchmarks.harness.targets import EdgeloraServer, Memory
from benchmarks.harness.workload import Job

ALLOWED = (200, 429, 503)
PAUSE_SECONDS = 0.05
"""After a refusal: less than it asks for, so that the queue stays full."""
_SAMPLE_SECONDS = 0.1
_MODELS = b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


class Crowd:
    def __init__(self, server: EdgeloraServer, home: Home, *, tokens: int, prompt: int, seed: int) -> None:
        self._server = server
        self._home = home
        self._tokens, self._prompt = tokens, prompt
        self._random = random.Random(seed)
        self.exchanges: list[Exchange] = []
        self.before = self.most = self.after = server.memory

    def ask(self, *, clients: int, seconds: float) -> None:
        """`clients` at once for so long, each with a new question as soon as it has its answer."""
        self.before = self.most = self._server.memory
        asyncio.run(self._ask(clients, time.monotonic() + seconds))
        self.after = self._server.memory

    def wrong(self, *, growth: int) -> list[str]:
        """Return the problems found, in words."""
        found = [f"status {one.status} {one.error}" for one in self.exchanges if one.status not in ALLOWED]
        found += ["an answer that never ended" for one in self.exchanges if one.ended is None and one.status]
        found += ["a 429 without Retry-After" for one in self.exchanges if one.refused and not one.retry_after]
        if not any(one.status == 200 for one in self.exchanges):
            found.append("nobody was answered")
        grown = self.most.anonymous - self.before.anonymous
        if grown > growth:
            found.append(f"memory grew by {grown / 1e6:.1f} MB")
        return found

    def quantile(self, status: int, share: float) -> float:
        """Seconds from the sending to the last byte."""
        return quantile([one.ended - one.sent for one in self.exchanges if one.status == status and one.ended], share)

    async def _ask(self, clients: int, until: float) -> None:
        watching = asyncio.create_task(self._watch())
        await asyncio.gather(*(self._client(until) for _ in range(clients)))
        watching.cancel()

    async def _client(self, until: float) -> None:
        while time.monotonic() < until:
            job = self._job()
            one = await exchange(job, self._server.port, self._server.write(job), intended=time.monotonic())
            self.exchanges.append(one)
            one.frames.clear()  # of nobody's interest, and this process has memory too
            if one.status != 200:
                await asyncio.sleep(PAUSE_SECONDS)

    async def _watch(self) -> None:
        while True:
            now = await asyncio.to_thread(lambda: self._server.memory)
            self.most = max(self.most, now, key=_anonymous)
            await asyncio.sleep(_SAMPLE_SECONDS)

    def _job(self) -> Job:
        prompt = tuple(self._random.choices(self._home.tokenizer, k=self._prompt))
        return Job(0.0, self._random.randrange(len(self._home.names)), prompt, self._tokens)


def _anonymous(memory: Memory) -> int:
    return memory.anonymous


def models_per_second(port: int, *, connections: int, seconds: float) -> float:
    """Requests of /v1/models that are answered on kept connections. Raises RuntimeError for another status."""
    return asyncio.run(_models_per_second(port, connections, seconds))


async def _models_per_second(port: int, connections: int, seconds: float) -> float:
    began = time.monotonic()
    counts = await asyncio.gather(*(_ask_models(port, began + seconds) for _ in range(connections)))
    return sum(counts) / (time.monotonic() - began)


async def _ask_models(port: int, until: float) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    count = 0
    try:
        while time.monotonic() < until:
            writer.write(_MODELS)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                raise RuntimeError(head.decode("latin-1").splitlines()[0])
            await reader.readexactly(content_length(head))
            count += 1
    finally:
        writer.close()
    return count


def content_length(head: bytes) -> int:
    """Of a response's head. Raises RuntimeError where it has none."""
    for line in head.lower().splitlines():
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return int(value)
    raise RuntimeError("a response without Content-Length")
