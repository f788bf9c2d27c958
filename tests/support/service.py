"""A service over the fake backend, without a store: what the server and the CLI need of
`edgelora.runtime.service.Service`.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from edgelora.core.config import read_settings
from edgelora.core.errors import NotFound
from edgelora.core.model_id import split_model_id
from edgelora.core.progress import Progress
from edgelora.core.request import AdapterRef, AdapterUse, Request
from edgelora.core.sampling_params import SamplingParams
from edgelora.core.tokenizer import Tokenizer
from edgelora.engine.engine import Engine
from edgelora.engine.stats import EngineHealth, EngineStats
from edgelora.engine.stream import Stream
from edgelora.runtime.adapter_registry import AdapterRegistry
from edgelora.runtime.alora import activated
from edgelora.runtime.composition import compose
from edgelora.runtime.model_card import ModelCard
from edgelora.runtime.pins import Pins
from edgelora.store.library import Library
from edgelora.text.prompt import Message, encode_chat, encode_text
from edgelora.text.tools import Tool
from tests.support.adapters import TINY
from tests.support.fake_backend.backend import FakeBackend, write_fake_adapter
from tests.support.records import base_record

CREATED = 1_750_000_000


class Turnstile(threading.Event):
    """A gate for `FakeBackend.step_gate` that lets a given number of steps through."""

    def __init__(self, permits: int = 0) -> None:
        super().__init__()
        self._permits = threading.Semaphore(permits)

    def allow(self, steps: int) -> None:
        self._permits.release(steps)

    def open(self) -> None:
        self.set()
        self.allow(1)

    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set() or self._permits.acquire(timeout=timeout)


class WatchedEngine(Engine):
    """An engine that signals when a request is cancelled."""

    def __init__(self, backend: FakeBackend, *, max_queue: int) -> None:
        self.cancelled = threading.Event()
        super().__init__(backend, adapter_budget_bytes=1 << 20, max_queue=max_queue)

    def cancel(self, request_id: str) -> None:
        super().cancel(request_id)
        self.cancelled.set()


@dataclass(frozen=True, slots=True)
class FakeBase:
    name: str = "tiny"
    context_length: int = 2048
    temperature: float = 0.0
    top_p: float = 1.0


class FakeService:
    """`adapters`: the answer of each by name; `answer`: the base's. None: letters are made up."""

    def __init__(
        self,
        folder: Path,
        *,
        adapters: Mapping[str, str | None],
        answer: str | None = "Hello from the base.",
        max_queue: int = 16,
        backend: FakeBackend | None = None,
    ) -> None:
        self.base = FakeBase()
        self.setup = None
        self.backend_name = "fake"
        self.backend = backend or FakeBackend(answers={} if answer is None else {None: answer})
        self.refs = {
            name: write_fake_adapter(folder, name.replace("/", "_"), answer=text) for name, text in adapters.items()
        }
        self.prompts: list[tuple[int, ...]] = []
        """The token ids of every request."""
        self.samplings: list[SamplingParams] = []
        self.clients: list[str] = []
        self.engine = WatchedEngine(self.backend, max_queue=max_queue)
        self.registry = self._empty_registry(folder / "home")
        self._ids = itertools.count()

    def models(self) -> list[ModelCard]:
        base = ModelCard(self.base.name, CREATED, None, self.base.name, True)
        return [base, *(self._card(name) for name in sorted(self.refs))]

    def model(self, model_id: str) -> ModelCard:
        ref = self.resolve(model_id)
        return self.models()[0] if ref is None else self._card(model_id if model_id in self.refs else ref.name)

    def resolve(self, model_id: str) -> AdapterRef | None:
        if model_id in self.refs:
            return self.refs[model_id]
        parts = split_model_id(model_id)
        name = (parts.adapter or "").partition("@")[0]
        if model_id == self.base.name:
            return None
        if parts.base not in (None, self.base.name) or name not in self.refs:
            raise NotFound("model", model_id, [self.base.name, *self.refs])
        return self.refs[name]

    def pin(self, name: str) -> AdapterRef:
        ref = self.resolve(name)
        assert ref is not None
        self.engine.fetch(ref, pin=True).result()
        return ref

    def prefetch(self, adapter: AdapterRef) -> None:
        self.engine.fetch(adapter)

    def default_sampling(self) -> SamplingParams:
        return SamplingParams(temperature=self.base.temperature, top_p=self.base.top_p)

    def compose(self, *parts: str | tuple[str, float]) -> tuple[AdapterUse, ...]:
        return compose(self.resolve, ((part, 1.0) if isinstance(part, str) else part for part in parts))

    def chat(
        self,
        messages: Sequence[Message],
        *,
        adapters: Sequence[AdapterUse] = (),
        sampling: SamplingParams,
        client: str = "",
        tools: Sequence[Tool] = (),
        continued: bool = False,
    ) -> Stream:
        tokens = encode_chat(messages, self.engine.tokenizer, tools=tools, limit=self.limit, continued=continued)
        return self._submit(tokens, adapters, sampling, client)

    def complete(
        self,
        prompt: str | Sequence[int],
        *,
        adapters: Sequence[AdapterUse] = (),
        sampling: SamplingParams,
        client: str = "",
    ) -> Stream:
        tokenizer = self.engine.tokenizer
        tokens = encode_text(prompt, tokenizer, limit=self.limit) if isinstance(prompt, str) else tuple(prompt)
        return self._submit(tokens, adapters, sampling, client)

    @property
    def tokenizer(self) -> Tokenizer:
        return self.engine.tokenizer

    @property
    def limit(self) -> int:
        return self.engine.capabilities.sequence_tokens

    def stats(self) -> EngineStats:
        return self.engine.stats()

    def health(self) -> EngineHealth:
        return self.engine.health()

    def wait_ready(self, progress: Progress | None = None) -> None:
        self.engine.wait_ready(progress)

    def close(self, *, drain: bool = False, timeout: float = 10.0) -> None:
        self.engine.close(drain=drain, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _empty_registry(self, home: Path) -> AdapterRegistry:
        """A real registry over an empty store: the service's adapters are not installed in it."""
        settings = read_settings({"EDGELORA_HOME": str(home), "EDGELORA_OFFLINE": "1"})
        library = Library.of(settings)
        record = base_record(TINY, name=self.base.name)
        return AdapterRegistry(library, record, self.engine, resolve=self.resolve, pins=Pins(self.engine))

    def _card(self, name: str) -> ModelCard:
        entry = next((entry for entry in self.engine.stats().adapters if entry.ref == self.refs[name]), None)
        pinned = entry is not None and entry.pinned
        return ModelCard(name, CREATED, self.base.name, str(self.refs[name]), entry is not None, pinned)

    def _submit(
        self, tokens: tuple[int, ...], adapters: Sequence[AdapterUse], sampling: SamplingParams, client: str
    ) -> Stream:
        self.prompts.append(tokens)
        self.samplings.append(sampling)
        self.clients.append(client)
        acting = activated(adapters, tokens)
        return self.engine.submit(Request(f"r{next(self._ids)}", tokens, acting, sampling, client))
