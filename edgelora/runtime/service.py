"""One resident base with its adapters, which the CLI and the server share. It wires the parts and has no logic.

A `Service` is a library (`store/library.py`: everything installed) with one base in memory.
"""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from edgelora.backends.registry import spec_for
from edgelora.core.errors import BackendError, NotFound
from edgelora.core.model_id import split_model_id, without_project
from edgelora.core.progress import Progress
from edgelora.core.request import AdapterRef, AdapterUse, Request
from edgelora.core.sampling_params import SamplingParams
from edgelora.runtime.alora import activated
from edgelora.runtime.composition import compose
from edgelora.runtime.model_card import ModelCard, model_card
from edgelora.store.bases.names import goes_by
from edgelora.store.library import Library, open_library

if TYPE_CHECKING:
    from edgelora.backends.setup import Setup
    from edgelora.core.config import Settings
    from edgelora.core.tokenizer import Tokenizer
    from edgelora.engine.client import EngineClient
    from edgelora.engine.prefix_cache.cache import PrefixCache
    from edgelora.engine.stats import EngineHealth, EngineStats
    from edgelora.engine.stream import Stream
    from edgelora.store.bases.record import BaseRecord
    from edgelora.store.prefixes.layout import StoredPrefix
    from edgelora.text.prompt import Message
    from edgelora.text.tools import Tool


_RENAMED = {"shelf": "registry", "vocabulary": "tokenizer"}
"""Attributes of `Service` by the names they had in 0.1.0. They go with the next version."""


class Service:
    """A resident base. Thread-safe. Leaving it as a context manager waits for running requests and frees the base."""

    def __init__(
        self,
        library: Library,
        base: BaseRecord,
        engine: EngineClient,
        *,
        setup: Setup | None = None,
        prefixes: PrefixCache | None = None,
    ) -> None:
        """Wire a base and its engine. `open` and `supervised` are the usual ways to make one.

        `setup`: how the base was opened, if known; it is only reported. `prefixes`: the engine's prefix cache, if the
        engine computes in this process.
        """
        from edgelora.runtime.adapter_registry import AdapterRegistry
        from edgelora.runtime.pins import Pins

        self.library = library
        self.base = base
        self.setup = setup
        self.engine = engine
        self._prefixes = prefixes
        self._quarantine = library.quarantine()
        self._pins = Pins(engine)
        self.registry = AdapterRegistry(library, base, engine, resolve=self.resolve, pins=self._pins)
        """The installed adapters of this base: list, add, remove, pin."""

    @classmethod
    def open(cls, settings: Settings, *, base: str | None = None, progress: Progress | None = None) -> Self:
        """Load a base (`base`, or the chosen one) into this process.

        Raises NotFound, UsageError, BaseError, BackendError.
        """
        from edgelora.engine.engine import Engine
        from edgelora.engine.prefix_cache.cache import open_cache
        from edgelora.runtime.opening.open import open_backend
        from edgelora.runtime.opening.plan import plan_setup

        library, record = _opened(settings, base, progress)
        setup = plan_setup(record, settings)
        backend = open_backend(record, setup, settings, progress)
        prefixes = open_cache(library.prefixes(), record, kv=backend.kv_identity)
        engine = Engine(
            backend,
            adapter_budget_bytes=settings.adapter_budget_bytes,
            max_queue=settings.max_queue,
            prefixes=prefixes,
            speculate=settings.speculate == "auto",
        )
        return cls(library, record, engine, setup=setup, prefixes=prefixes)

    @classmethod
    def supervised(cls, settings: Settings, *, base: str | None = None, progress: Progress | None = None) -> Self:
        """Load a base into a process of its own, which is started again when it crashes.

        Returns while the base loads; `wait_ready` waits for it. Raises NotFound, UsageError, BaseError.
        """
        from edgelora.runtime.engine_process import start_engine
        from edgelora.runtime.opening.plan import plan_setup

        library, record = _opened(settings, base, progress)
        setup = plan_setup(record, settings)
        engine = start_engine(library, record, setup, settings)
        return cls(library, record, engine, setup=setup)

    def wait_ready(self, progress: Progress | None = None) -> None:
        """Return once the base is in memory. Raises the error that prevented it, such as BaseError or BackendError."""
        self.engine.wait_ready(progress)

    def health(self) -> EngineHealth:
        return self.engine.health()

    def models(self) -> list[ModelCard]:
        """Return the base, then every adapter installed for it, by name."""
        entries = {entry.ref.version: entry for entry in self.engine.stats().adapters}
        cards = [ModelCard(self.base.name, int(self.base.created), None, self.base.name, True)]
        mine = self.base.identity.fingerprint.digest
        for manifest in self.library.store.list():
            version = manifest.latest
            if version.base_fingerprint == mine:
                root = f"{manifest.name}@{version.digest[:12]}"
                entry = entries.get(version.digest)
                cards.append(model_card(manifest.name, int(version.created), self.base.name, root, entry))
        return cards

    def model(self, model_id: str) -> ModelCard:
        """Return the card of a model by any form of its id. Raises NotFound with near names."""
        cards = {card.id: card for card in self.models()}
        if model_id in cards:
            return cards[model_id]
        ref = self.resolve(model_id)
        if ref is None:
            return cards[self.base.name]
        entries = {entry.ref: entry for entry in self.engine.stats().adapters}
        return model_card(model_id, cards[ref.name].created, self.base.name, str(ref), entries.get(ref))

    def resolve(self, model_id: str) -> AdapterRef | None:
        """Return the adapter version that an id names, converted for this base, or None for the base alone.

        Raises NotFound with near names, AdapterIncompatible for an adapter of another base, AdapterError(code
        adapter_quarantined) for one that crashed the engine twice. An id that names an adapter never resolves to the
        base.
        """
        parts = split_model_id(model_id)
        if parts.base is not None and not goes_by(self.base, parts.base):
            raise NotFound("model", model_id, self._names())
        if parts.adapter is None or (parts.base is None and goes_by(self.base, parts.adapter)):
            return None
        store, spec = self.library.store, without_project(parts.adapter)
        try:
            able = self.engine.capabilities
            ref = store.ref(spec, self.base, to=able.adapter_format, widened=able.widens_adapters)
        except NotFound as error:
            if spec.partition("@")[0] in store.names():
                raise  # The version does not exist; the store's error lists those that do.
            raise NotFound("model", model_id, self._names()) from error
        self._quarantine.check(ref)
        self._pins.follow(spec, ref)
        return ref

    def pin(self, name: str) -> AdapterRef:
        """Load an adapter and keep it in memory until it is unpinned; a new version of it takes over the pin.

        Returns once it is in memory. Raises as `resolve` does, UsageError for the base, and AdapterError if it cannot
        be loaded or the pinned adapters exceed the memory for adapters.
        """
        return self.registry.pin(name)

    def prefetch(self, adapter: AdapterRef) -> None:
        """Load an adapter in the background if there is room, since it will be needed soon. Raises nothing."""
        with suppress(BackendError):  # The engine was stopped; the next request reports it.
            self.engine.fetch(adapter)

    def default_sampling(self) -> SamplingParams:
        """Return the sampling parameters that the base's authors recommend, for requests that set none."""
        return SamplingParams(temperature=self.base.temperature, top_p=self.base.top_p)

    def compose(self, *wanted: str | tuple[str, float]) -> tuple[AdapterUse, ...]:
        """Return the adapters of a request, from model ids, each alone or with its weight. Their order is irrelevant.

        For example `service.chat(..., adapters=service.compose(("medical-faq", 0.7), ("pirate", 0.3)), ...)`. The
        base's id adds no adapter. Raises as `resolve` does, and UsageError for a weight of the base.
        """
        return compose(self.resolve, ((entry, 1.0) if isinstance(entry, str) else entry for entry in wanted))

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
        """Begin an answer to a conversation, by the base alone or with `adapters` (see `compose`).

        `tools`: the functions that the model may call; its calls are in the answer's text, as `tool_parser.py` reads
        them. An aLoRA acts from the last occurrence of its invocation in the prompt onwards. `client`: identifies the
        caller, since the scheduler is fair between callers. `continued`: the answer continues the last message, which
        is the assistant's. Raises as `Engine.submit` does.
        """
        from edgelora.text.prompt import encode_chat
        from edgelora.text.system_prefix import system_length

        tokenizer = self.engine.tokenizer
        tokens = encode_chat(messages, tokenizer, tools=tools, limit=self.limit, continued=continued)
        system = system_length(messages, tokens, tokenizer, tools=tools)
        return self._submit(tokens, adapters, sampling, client, system=system)

    def complete(
        self,
        prompt: str | Sequence[int],
        *,
        adapters: Sequence[AdapterUse] = (),
        sampling: SamplingParams,
        client: str = "",
    ) -> Stream:
        """Continue a text or token ids without a chat template. Raises as `chat` does."""
        from edgelora.text.prompt import encode_text

        tokenizer = self.engine.tokenizer
        tokens = encode_text(prompt, tokenizer, limit=self.limit) if isinstance(prompt, str) else tuple(prompt)
        return self._submit(tokens, adapters, sampling, client, system=0)

    def add_prefix(
        self, system: str, *, adapters: Sequence[AdapterUse] = (), name: str, progress: Progress | None = None
    ) -> StoredPrefix:
        """Compute the prefix of every conversation with this system message, and keep its KV on disk as `name`.

        Raises UsageError, ContextTooLong, StorageError(code prefix_budget among others), and the errors of a request.
        """
        from edgelora.engine.prefix_cache.cache import open_cache
        from edgelora.runtime.named_prefix import add_named
        from edgelora.text.system_prefix import system_prefix

        tokens = system_prefix(system, self.engine.tokenizer, limit=self.limit)
        uses = activated(adapters, tokens)
        if self._prefixes is None:
            self._prefixes = open_cache(self.library.prefixes(), self.base, kv=self.engine.kv_identity)
        return add_named(self.engine, self._prefixes, tokens, uses=uses, name=name, progress=progress)

    @property
    def backend_name(self) -> str:
        """The backend's name as people see it."""
        return spec_for(self.base.format).display_name

    def stats(self) -> EngineStats:
        return self.engine.stats()

    def close(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """Finish the running requests (`drain`) within `timeout` seconds, or fail them at once; then free the base."""
        self.engine.close(drain=drain, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(drain=kind is None)

    @property
    def tokenizer(self) -> Tokenizer:
        return self.engine.tokenizer

    @property
    def limit(self) -> int:
        """Number of tokens of a sequence. A prompt of this length or longer is refused."""
        return self.engine.capabilities.sequence_tokens

    def _submit(
        self,
        tokens: tuple[int, ...],
        adapters: Sequence[AdapterUse],
        sampling: SamplingParams,
        client: str,
        *,
        system: int,
    ) -> Stream:
        from edgelora.engine.sampling.guided_decoding import guided_decoder

        # An invalid constraint is refused here, whichever process the engine runs in.
        guided_decoder(sampling.constraint, self.tokenizer)
        uses = activated(adapters, tokens)
        return self.engine.submit(Request(uuid.uuid4().hex, tokens, uses, sampling, client, system))

    if not TYPE_CHECKING:  # Type checkers see the new names only.

        def __getattr__(self, name: str) -> object:
            if name not in _RENAMED:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            message = f"Service.{name} is now Service.{_RENAMED[name]}; the old name goes with the next version."
            warnings.warn(message, DeprecationWarning, stacklevel=2)
            return getattr(self, _RENAMED[name])

    def _names(self) -> list[str]:
        return [self.base.name, *self.library.store.names()]


def _opened(settings: Settings, base: str | None, progress: Progress | None) -> tuple[Library, BaseRecord]:
    """Return the library, and the base to open by its name and by the settings' backend."""
    from edgelora.store.bases.selection import choose_base

    library = open_library(settings, progress=progress)
    return library, choose_base(library.bases, base, settings.backend, progress=progress)
