"""One resident base with its adapters: what the CLI and the server share. Owns the wiring and no logic of its own.

`Library` is what is on disk (bases and adapters, nothing loaded); `Service` is a library with one base in memory.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from edgelora.core import AdapterRef, AdapterUse, Progress, Request, SamplingParams
from edgelora.errors import NotFound
from edgelora.names import split_model_id

if TYPE_CHECKING:
    from edgelora.adapters.store import Store
    from edgelora.backends.base import Backend
    from edgelora.bases.record import BaseRecord
    from edgelora.bases.registry import Bases
    from edgelora.config import Settings
    from edgelora.engine import Engine, EngineStats
    from edgelora.prompt import Message
    from edgelora.stream import Stream

STEP_TOKENS = 512
"""Tokens in one forward pass at most: a long prompt is computed in pieces of this size."""
MAX_RESIDENT = 256
"""Adapters in memory at once at most; the byte budget ends it earlier for all but tiny ones."""


@dataclass(frozen=True, slots=True)
class Library:
    """What is installed. The built-in base and its adapters are there after `open_library`."""

    settings: Settings
    bases: Bases
    store: Store


def open_library(settings: Settings, *, progress: Progress | None = None) -> Library:
    """The installed bases and adapters; installs the built-in ones on first use. Raises StorageError."""
    from edgelora.adapters.store import Store
    from edgelora.bases.builtin import ensure_builtin
    from edgelora.bases.registry import Bases

    bases, store = Bases(settings.directories), Store(settings.directories.data)
    ensure_builtin(bases, store, progress)
    return Library(settings, bases, store)


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One entry of a model list: the base, or an adapter of it."""

    id: str
    created: int
    """Unix seconds."""
    parent: str | None
    """The base's name; None for the base itself."""
    root: str
    """The version an id stands for (`name@digest`), or the base's name. Never a path."""
    resident: bool


class Service:
    """A resident base. Thread-safe. A context manager: leaving it waits for running requests and frees the base."""

    def __init__(self, library: Library, base: BaseRecord, backend: Backend) -> None:
        from edgelora.engine import Engine

        settings = library.settings
        self.library = library
        self.base = base
        self._backend = backend
        self._engine: Engine = Engine(
            backend, adapter_budget_bytes=settings.adapter_budget_bytes, max_queue=settings.max_queue
        )

    @classmethod
    def open(cls, settings: Settings, *, base: str | None = None, progress: Progress | None = None) -> Self:
        """Load a base (`base`, or the chosen one). Raises NotFound, BaseError, BackendError."""
        library = open_library(settings, progress=progress)
        record = (library.bases.get(base) if base else library.bases.current()).check()
        return cls(library, record, open_backend(record, settings, progress))

    def models(self) -> list[ModelCard]:
        """The base, then every adapter installed for it, by name."""
        resident = {ref.version for ref in self._resident()}
        cards = [ModelCard(self.base.name, int(self.base.created), None, self.base.name, True)]
        mine = self.base.identity.fingerprint.digest
        for manifest in self.library.store.list():
            version = manifest.latest
            if version.base_fingerprint == mine:
                root = f"{manifest.name}@{version.digest[:12]}"
                cards.append(
                    ModelCard(manifest.name, int(version.created), self.base.name, root, version.digest in resident)
                )
        return cards

    def model(self, model_id: str) -> ModelCard:
        """One entry by any form of id. Raises NotFound with near names."""
        cards = {card.id: card for card in self.models()}
        if model_id in cards:
            return cards[model_id]
        ref = self.resolve(model_id)
        if ref is None:
            return cards[self.base.name]
        return ModelCard(model_id, cards[ref.name].created, self.base.name, str(ref), ref in self._resident())

    def resolve(self, model_id: str) -> AdapterRef | None:
        """The adapter version an id names, converted for this base; None is the base alone.

        Raises NotFound with near names, or AdapterIncompatible for an adapter of another base. Never falls back.
        """
        parts = split_model_id(model_id)
        if parts.base is not None and not self._is_base(parts.base):
            raise NotFound("model", model_id, self._names())
        if parts.adapter is None or (parts.base is None and self._is_base(parts.adapter)):
            return None
        store = self.library.store
        try:
            return store.ref(parts.adapter, self.base)
        except NotFound as error:
            if parts.adapter.partition("@")[0] in store.names():
                raise  # a version it does not have: the store says which it has
            raise NotFound("model", model_id, self._names()) from error

    def default_sampling(self) -> SamplingParams:
        """What the base's makers recommend, for requests that say nothing."""
        return SamplingParams(temperature=self.base.temperature, top_p=self.base.top_p)

    def chat(self, messages: Sequence[Message], *, adapter: AdapterRef | None, sampling: SamplingParams) -> Stream:
        """Begin an answer to a conversation. Raises UsageError, ContextTooLong, Busy."""
        from edgelora.prompt import encode_chat

        return self._submit(encode_chat(messages, self._backend.vocabulary), adapter, sampling)

    def complete(self, prompt: str | Sequence[int], *, adapter: AdapterRef | None, sampling: SamplingParams) -> Stream:
        """Continue a text (or token ids) as it stands, without a chat template. Raises as `chat` does."""
        from edgelora.prompt import encode_text

        vocabulary = self._backend.vocabulary
        tokens = encode_text(prompt, vocabulary) if isinstance(prompt, str) else tuple(prompt)
        return self._submit(tokens, adapter, sampling)

    def stats(self) -> EngineStats:
        return self._engine.stats()

    def ready(self) -> bool:
        """Whether a request sent now would be worked on."""
        return self._engine.alive

    def close(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """End: finish what runs (`drain`) within `timeout` seconds, or fail it at once; then free the base."""
        self._engine.close(drain=drain, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(drain=kind is None)

    def _submit(self, tokens: tuple[int, ...], adapter: AdapterRef | None, sampling: SamplingParams) -> Stream:
        uses = () if adapter is None else (AdapterUse(adapter),)
        return self._engine.submit(Request(uuid.uuid4().hex, tokens, uses, sampling))

    def _resident(self) -> set[AdapterRef]:
        return {entry.ref for entry in self._engine.stats().adapters}

    def _is_base(self, name: str) -> bool:
        return name == self.base.name or name in self.base.aliases

    def _names(self) -> list[str]:
        return [self.base.name, *self.library.store.names()]


def open_backend(record: BaseRecord, settings: Settings, progress: Progress | None) -> Backend:
    """Load a base into the backend that runs its format. Raises BaseError, BackendError."""
    if record.format == "mlx":
        from edgelora.backends.mlx import open_mlx

        return open_mlx(record.path, shape=record.identity.fingerprint.shape)
    from edgelora.backends.llama_cpp import BackendOptions
    from edgelora.backends.llama_cpp.backend import LlamaCppBackend

    label = f"Loading {record.name}"
    context = min(settings.context_length, record.identity.context_length)
    return LlamaCppBackend.open(
        record.path,
        shape=record.identity.fingerprint.shape,
        settings=BackendOptions(
            context_length=context,
            max_sequences=settings.max_sequences,
            max_step_tokens=STEP_TOKENS,
            max_slots=MAX_RESIDENT,
            threads=settings.threads,
            kernel=settings.kernel,
        ),
        progress=None if progress is None else lambda part: progress(label, round(part * 100), 100),
    )
