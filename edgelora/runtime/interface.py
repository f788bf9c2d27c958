"""The part of the runtime that the server uses.

`edgelora.runtime.service.Service` implements it; tests have a small implementation of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from edgelora.core.request import AdapterRef, AdapterUse
from edgelora.core.sampling_params import SamplingParams
from edgelora.core.tokenizer import Tokenizer
from edgelora.engine.stats import EngineHealth, EngineStats
from edgelora.engine.stream import Stream
from edgelora.runtime.adapter_registry import AdapterRegistry
from edgelora.runtime.model_card import ModelCard
from edgelora.text.prompt import Message
from edgelora.text.tools import Tool


class ResidentBase(Protocol):
    @property
    def name(self) -> str: ...


class Runtime(Protocol):
    """Thread-safe. All but the properties and `health` may block (a first use converts an adapter): call in threads."""

    @property
    def base(self) -> ResidentBase: ...

    @property
    def backend_name(self) -> str:
        """The backend's display name."""
        ...

    @property
    def setup(self) -> object | None:
        """The chosen options, as text for people; None if nothing was chosen."""
        ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def limit(self) -> int:
        """Number of tokens from which on a prompt is refused."""
        ...

    @property
    def registry(self) -> AdapterRegistry:
        """The installed adapters, for listing and changing them."""
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
        continued: bool = False,
    ) -> Stream: ...

    def complete(
        self, prompt: str | Sequence[int], *, adapters: Sequence[AdapterUse], sampling: SamplingParams, client: str = ""
    ) -> Stream: ...

    def default_sampling(self) -> SamplingParams: ...

    def stats(self) -> EngineStats: ...

    def health(self) -> EngineHealth: ...
