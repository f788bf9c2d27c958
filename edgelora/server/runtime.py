"""What the server needs of the runtime, and nothing more. `edgelora.service.Service` is it; tests bring a small one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from edgelora.backends.base import Vocabulary
from edgelora.core import AdapterRef, AdapterUse, SamplingParams
from edgelora.prompt import Message
from edgelora.service import ModelCard
from edgelora.shelf import Shelf
from edgelora.stats import EngineHealth, EngineStats
from edgelora.stream import Stream
from edgelora.tools import Tool


class ResidentBase(Protocol):
    @property
    def name(self) -> str: ...


class Runtime(Protocol):
    """Thread-safe. All but the properties and `health` may block (a first use converts an adapter): call in threads."""

    @property
    def base(self) -> ResidentBase: ...

    @property
    def backend_name(self) -> str:
        """What computes, for people."""
        ...

    @property
    def setup(self) -> object | None:
        """How, where something was chosen; its text is for people."""
        ...

    @property
    def vocabulary(self) -> Vocabulary: ...

    @property
    def limit(self) -> int:
        """A prompt of so many tokens, or more, is refused."""
        ...

    @property
    def shelf(self) -> Shelf:
        """The installed adapters, to be looked at and changed."""
        ...

    def models(self) -> list[ModelCard]: ...

    def model(self, model_id: str) -> ModelCard: ...

    def resolve(self, model_id: str) -> AdapterRef | None: ...

    def chat(
        self,
        messages: Sequence[Message],
        *,
        adapters: Sequence[AdapterUse],
        sampling: SamplingParams,
        client: str = "",
        tools: Sequence[Tool] = (),
    ) -> Stream: ...

    def complete(
        self, prompt: str | Sequence[int], *, adapters: Sequence[AdapterUse], sampling: SamplingParams, client: str = ""
    ) -> Stream: ...

    def default_sampling(self) -> SamplingParams: ...

    def stats(self) -> EngineStats: ...

    def health(self) -> EngineHealth: ...
