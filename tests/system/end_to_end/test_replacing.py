"""Another version under a name that runs: who runs finishes on the old one, who comes gets the new one, nothing mixes.

On the built-in base, with the medical adapter as the first version of a name and the pirate as the second; the engine
is stopped between two steps where a test has to act in the middle of an answer.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from edgelora.backends.base import Chunk
from edgelora.core.config import Settings
from edgelora.core.errors import NotFound
from edgelora.core.events import Finished, TextDelta
from edgelora.core.request import AdapterRef, AdapterUse
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.stream import Stream
from edgelora.runtime.service import Service
from edgelora.text.prompt import Message
from edgelora_models import builtin
from tests.support.server import serving

NAME = "moving"
OLD, NEW = "medical-faq", "pirate"
QUESTION = "What is hypertension?"
GREEDY = SamplingParams(max_tokens=64)


@contextmanager
def opened(settings: Settings, **changes: Any) -> Iterator[Service]:
    """A service of its own, with `moving` installed as the old version; the store is left as it was."""
    with Service.open(replace(settings, **changes)) as service:
        install(service, OLD)
        try:
            yield service
        finally:
            if NAME in service.library.store.names():
                service.library.store.remove(NAME)


@pytest.fixture(scope="module")
def moving(settings: Settings) -> Iterator[Service]:
    with opened(settings) as service:
        yield service


@pytest.fixture(autouse=True)
def old_version(moving: Service) -> None:
    """Every test starts with the old version alone."""
    store = moving.library.store
    if NAME in store.names():
        store.remove(NAME)
    install(moving, OLD)


def install(service: Service, content: str, *, dropout: float = 0.25) -> None:
    """Under the test's name, with a configuration that says another dropout: it computes the same, and is a version of
    its own, whose files and KV nobody shares."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(builtin.adapters()[content], Path(folder, "copy")))
        config = copy / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_dropout": dropout}))
        service.library.store.add(copy, name=NAME, base=service.base)


class Pause:
    """Holds the engine before its next step, once `after` more have been computed."""

    def __init__(self, service: Service, *, after: int) -> None:
        self.reached, self._go = threading.Event(), threading.Event()
        self._backend = service.engine._backend
        self._step, self._left = self._backend.step, after

    def __enter__(self) -> Pause:
        self._backend.step = self._wait  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        self._go.set()
        del self._backend.step  # the method of its class again

    def _wait(self, chunks: Sequence[Chunk]) -> Any:
        self._left -= 1
        if self._left < 0:
            self.reached.set()
            assert self._go.wait(30)
        return self._step(chunks)


def begin(service: Service, name: str, question: str = QUESTION) -> tuple[AdapterRef, Stream]:
    ref = service.resolve(name)
    assert ref is not None
    return ref, service.chat([Message("user", question)], adapters=(AdapterUse(ref),), sampling=GREEDY)


def answer(service: Service, name: str) -> tuple[str, int]:
    """The text, and how many tokens of the prompt were not computed."""
    *texts, end = begin(service, name)[1]
    assert isinstance(end, Finished)
    return "".join(event.text for event in texts if isinstance(event, TextDelta)), end.usage.cached_tokens


@pytest.fixture(scope="module")
def said(moving: Service) -> dict[str, str]:
    """What each adapter says when it runs under its own name, alone."""
    return {name: answer(moving, name)[0] for name in (OLD, NEW)}


def test_who_runs_finishes_on_the_old_version(moving: Service, said: dict[str, str]) -> None:
    """Both versions run in one batch under one name, each its own way to the end; then the new one alone."""
    assert said[OLD] != said[NEW]
    with Pause(moving, after=4) as pause:
        old, running = begin(moving, NAME)
        assert pause.reached.wait(30)
        install(moving, NEW)
        new, coming = begin(moving, NAME)
    assert (running.text(), coming.text()) == (said[OLD], said[NEW])
    assert old.name == new.name and old.key != new.key
    assert answer(moving, NAME)[0] == said[NEW]
    assert answer(moving, f"{NAME}@1")[0] == said[OLD]


def test_no_kv_crosses(moving: Service, said: dict[str, str]) -> None:
    """The new version goes on from nothing, though the same prompt is warm for the old one, which goes on from it."""
    install(moving, OLD, dropout=0.375)
    assert answer(moving, NAME) == (said[OLD], 0)
    assert answer(moving, NAME)[1] > 0
    install(moving, NEW, dropout=0.375)
    assert answer(moving, NAME) == (said[NEW], 0)
    text, cached = answer(moving, f"{NAME}@2")
    assert text == said[OLD] and cached > 0


def test_the_old_version_leaves_when_its_room_is_needed(settings: Settings, said: dict[str, str]) -> None:
    """Unleased it is like any other: with room for two, a third adapter pushes it out, and the new version stays."""
    with opened(settings) as service:
        sizes = [begin(service, name)[0].nbytes for name in (NAME, NEW, "sql")]
    with opened(settings, adapter_budget_bytes=sum(sizes) - min(sizes) // 2) as service:
        old, running = begin(service, NAME)
        assert running.text() == said[OLD]
        install(service, NEW)
        new, coming = begin(service, NAME)
        assert coming.text() == said[NEW]
        begin(service, "sql")[1].text()
        left = {entry.ref.key for entry in service.stats().adapters}
        assert new.key in left and old.key not in left
        assert answer(service, f"{NAME}@1")[0] == said[OLD]


def test_removing_what_runs_does_not_hurt_it(moving: Service, said: dict[str, str]) -> None:
    """The files are gone, the running request ends as it would have, and the name is unknown from then on."""
    with Pause(moving, after=4) as pause:
        ref, running = begin(moving, NAME)
        assert pause.reached.wait(30)
        moving.library.store.remove(NAME)
        assert not ref.path.exists()
        with pytest.raises(NotFound):
            moving.resolve(NAME)
    assert running.text() == said[OLD]


def test_a_pin_follows_the_new_version(settings: Settings, said: dict[str, str]) -> None:
    """A pinned name keeps its newest version in memory; the old one may go."""
    with opened(settings) as service:
        old = service.pin(NAME)
        assert service.model(NAME).resident and service.model(NAME).pinned
        install(service, NEW)
        assert answer(service, NAME)[0] == said[NEW]
        new = service.resolve(NAME)
        pinned = {entry.ref.key for entry in service.stats().adapters if entry.pinned}
        assert new is not None and pinned == {new.key} and old.key != new.key


def test_over_http(moving: Service, said: dict[str, str]) -> None:
    """A stream that began on the old version ends on it, through a replacement and a removal."""
    messages: Any = [{"role": "user", "content": QUESTION}]
    with (
        serving(moving) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="local", max_retries=0) as client,
    ):
        with Pause(moving, after=4) as pause:
            stream = client.chat.completions.create(model=NAME, messages=messages, stream=True)
            assert pause.reached.wait(30)
            install(moving, NEW, dropout=0.5)
            assert client.models.retrieve(f"{NAME}@1").to_dict()["resident"] is True
            assert client.models.retrieve(NAME).to_dict()["resident"] is False
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
        whole = client.chat.completions.create(model=NAME, messages=messages)
        assert ("".join(pieces), whole.choices[0].message.content) == (said[OLD], said[NEW])
        with Pause(moving, after=4) as pause:
            stream = client.chat.completions.create(model=NAME, messages=messages, stream=True)
            assert pause.reached.wait(30)
            moving.library.store.remove(NAME)
            with pytest.raises(openai.NotFoundError):
                client.chat.completions.create(model=NAME, messages=messages)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == said[NEW]
