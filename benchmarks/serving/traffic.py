"""What the soak sends: good requests of every kind, clients that hang up, bad requests. Each knows what may come back.

Owns what is asked and what counts as an answer; the pace, the adapters' coming and going and the verdict are `soak.py`.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from benchmarks.harness.client import Exchange, Post, exchange, post_json, request_bytes
from benchmarks.harness.workload import Job

NOBODY = Job(0.0, None, (), 0)
BUSY = 429
GONE = (404, 400)
"""What a request may get whose adapter was removed under it: not found, or found and then not there to be loaded."""
HANGS_UP_SECONDS = 30.0

SYSTEM = "You are assistant number {}. " + "Answer in whole sentences, and say so where you do not know. " * 6
JSON = b"Content-Type: application/json\r\n"


@dataclass
class Counts:
    """What was sent, by kind, and what came back that nobody should get."""

    sent: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Bad:
    """A request that must be refused, and how."""

    name: str
    body: bytes
    statuses: tuple[int, ...]
    head: bytes = JSON
    path: str = "/v1/completions"


class Traffic:
    """One client's requests, drawn at random. `removed`: names that may not be there at the moment."""

    def __init__(self, port: int, names: list[str], removed: set[str], counts: Counts, *, seed: int) -> None:
        self._port = port
        self._names = names
        self._removed = removed
        self._counts = counts
        self._random = random.Random(seed)
        self._said: list[dict[str, str]] = []
        kinds: dict[Callable[[], Any], int] = {
            self.complete: 40, self.chat: 25, self.compose: 8,
            self.hang_up: 15, self.hang_up_early: 4, self.ask_wrongly: 8,
        }  # fmt: skip
        self._kinds, self._weights = list(kinds), list(kinds.values())

    async def one(self) -> None:
        (kind,) = self._random.choices(self._kinds, self._weights)
        self._counts.sent[kind.__name__] += 1
        await kind()

    async def complete(self) -> None:
        """Token ids in, a stream or a whole answer out; at times begins as others do."""
        size, shared = self._random.randint(1, 400), self._random.choice((0, 0, 100))
        prompt = [300 + n for n in range(min(size, shared))] + self._random.choices(range(300, 1700), k=size)
        await self._good("/v1/completions", {"model": self._name(), "prompt": prompt, **self._how()})

    async def chat(self) -> None:
        """A conversation that goes on now and then, with the same adapter or another; at times with one of a few long
        system prompts, whose KV comes to be on disk."""
        if self._random.random() < 0.4 or len(self._said) > 8:
            system = SYSTEM.format(self._random.randrange(6))
            self._said = [{"role": "system", "content": system}] if self._random.random() < 0.4 else []
        self._said.append({"role": "user", "content": f"What is {self._random.randint(0, 999)}?"})
        answer = await self._good(
            "/v1/chat/completions", {"model": self._name(), "messages": self._said, **self._how()}
        )
        self._said.append({"role": "assistant", "content": answer or "Hm."})

    async def compose(self) -> None:
        """Two adapters with weights."""
        first, second = self._random.sample(self._names, 2)
        parts = [{"name": first, "weight": 0.7}, {"name": second, "weight": self._random.choice((0.3, -0.5))}]
        prompt = self._random.choices(range(300, 1700), k=30)
        await self._good("/v1/completions", {"model": first, "adapters": parts, "prompt": prompt, **self._how()})

    async def hang_up(self) -> None:
        """Goes in the middle of a stream, politely or not."""
        prompt = self._random.choices(range(300, 1700), k=self._random.randint(1, 300))
        body = {"model": self._name(), "prompt": prompt, "max_tokens": 300, "stream": True}
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(HANGS_UP_SECONDS):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                writer.write(request_bytes(self._port, post_json("/v1/completions", body)))
                for _ in range(self._random.randint(0, 12)):
                    await reader.readline()
                self._leave(writer)

    async def hang_up_early(self) -> None:
        """Goes in the middle of its own request."""
        whole = request_bytes(self._port, post_json("/v1/completions", {"model": self._name(), "prompt": "a" * 200}))
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(whole[: self._random.randrange(len(whole))])
            await asyncio.sleep(self._random.choice((0.0, 0.05)))
            self._leave(writer)

    async def ask_wrongly(self) -> None:
        """One of BAD: the refusal must be the documented one."""
        bad = self._random.choice(BAD)
        found = await exchange(NOBODY, self._port, Post(bad.path, bad.body, bad.head), intended=0.0)
        self._note(found, bad.statuses, bad.name)

    async def _good(self, path: str, body: dict[str, Any]) -> str:
        named = {body["model"], *(part["name"] for part in body.get("adapters", ()))}
        may_be_gone = bool(named & self._removed)
        found = await exchange(NOBODY, self._port, post_json(path, body), intended=0.0)
        may_be_gone = may_be_gone or bool(named & self._removed)
        self._note(found, (200, BUSY, *(GONE if may_be_gone else ())), f"{path} {sorted(named)}")
        return self._answer(found, streamed=body["stream"]) if found.status == 200 else ""

    def _answer(self, found: Exchange, *, streamed: bool) -> str:
        """Return the text of a whole answer; an answer without its end is noted."""
        frames = [data for _, data in found.frames]
        if streamed and frames[-1:] != [b"[DONE]"]:
            self._counts.wrong.append(f"a stream without its end: {frames[-1:]}")
        values = [json.loads(data) for data in frames if data != b"[DONE]"]
        for value in values:
            if "error" in value:
                self._counts.wrong.append(f"an error in a stream: {value['error']}")
        choices = [choice for value in values for choice in value.get("choices", ())]
        if not any(choice.get("finish_reason") for choice in choices):
            self._counts.wrong.append("an answer without a reason for its end")
        parts = (choice.get("delta") or choice.get("message") or {} for choice in choices)
        return "".join(part.get("content") or "" for part in parts)

    def _note(self, found: Exchange, statuses: tuple[int, ...], what: str) -> None:
        self._counts.statuses[found.status] += 1
        if found.status not in statuses or found.error:
            said = found.error or found.frames[:1]
            self._counts.wrong.append(f"{what}: {found.status} instead of one of {statuses}: {said}")

    def _name(self) -> str:
        """Return an adapter, mostly one of a few favourites; now and then the base."""
        if self._random.random() < 0.1:
            return "edgelora-tiny"
        few = self._names[:12] if self._random.random() < 0.5 else self._names
        return self._random.choice(few)

    def _how(self) -> dict[str, Any]:
        chance = self._random
        how: dict[str, Any] = {"stream": chance.random() < 0.7, "max_tokens": chance.choice((1, 5, 20, 60, 200))}
        if chance.random() < 0.5:
            how |= {"temperature": 0.8, "top_p": 0.95, "top_k": 40, "seed": chance.randint(0, 99)}
        if chance.random() < 0.2:
            how |= {"stop": ["the", "\n\n"]}
        return how

    def _leave(self, writer: asyncio.StreamWriter) -> None:
        if self._random.random() < 0.5:  # a reset instead of an end
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.close()


def _body(**fields: object) -> bytes:
    return json.dumps({"model": "edgelora-tiny", "prompt": "Hello", **fields}).encode()


BAD = (
    Bad("no JSON", b"{", (400,)),
    Bad("no object", b"[1]", (400,)),
    Bad("a key twice", b'{"model": "a", "model": "b"}', (400,)),
    Bad("nested too deep", b"[" * 500, (400,)),
    Bad("no UTF-8", b'{"model": "\xff"}', (400,)),
    Bad("an unknown model", _body(model="nobody"), (404,)),
    Bad("a path as model", _body(model="../../etc/passwd"), (404,)),
    Bad("no prompt", b'{"model": "edgelora-tiny"}', (400,)),
    Bad("an empty prompt", _body(prompt=[]), (400,)),
    Bad("a token of no vocabulary", _body(prompt=[10**6]), (400,)),
    Bad("a prompt too long", _body(prompt=[300] * 5000), (400,)),
    Bad("a temperature out of range", _body(temperature=-1), (400,)),
    Bad("a number that is none", b'{"model": "edgelora-tiny", "prompt": "a", "top_p": NaN}', (400,)),
    Bad("something unsupported", _body(n=4), (400,)),
    Bad("the wrong content type", _body(), (415,), b"Content-Type: text/plain\r\n"),
    Bad("another origin", _body(), (403,), JSON + b"Origin: https://evil.example\r\n"),
    Bad("an unknown route", _body(), (404,), JSON, "/v1/nothing"),
    Bad("half of a surrogate pair", b'{"model": "edgelora-tiny", "prompt": "\\ud800"}', (400,)),
)
