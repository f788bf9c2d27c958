"""A cancel is obeyed within one step, in every state: the step that runs may hold the request, no later one does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgelora.backends.base import Chunk
from edgelora.core.errors import Cancelled
from edgelora.core.events import Failed
from edgelora.core.request import AdapterRef, Request
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.engine import Engine
from edgelora.engine.scheduler.states import LIVE, State
from edgelora.engine.stream import Stream
from tests.support.fake_backend.backend import FAKE_CAPABILITIES, FakeBackend, write_fake_adapter
from tests.support.service import Turnstile
from tests.support.uses import uses

ABLE = replace(FAKE_CAPABILITIES, max_slots=2, max_sequences=2, max_step_tokens=40)


class Watched(FakeBackend):
    """Notes which adapters each step computes, when it begins."""

    def __init__(self) -> None:
        super().__init__(answers={None: "b" * 1000}, capabilities=ABLE)
        self.steps: list[set[Path]] = []

    def step(self, chunks: Sequence[Chunk]) -> list[NDArray[np.float32] | None]:
        self.steps.append({self.slots[adapter.slot].path for chunk in chunks for adapter in chunk.adapters})
        return super().step(chunks)


class Scene:
    """An engine whose steps the test lets through one by one; the target is the only one with its adapter."""

    def __init__(self, folder: Path) -> None:
        self.gate = Turnstile()
        self.allowed = 0
        self.backend = Watched()
        self.backend.step_gate = self.gate
        self.engine = Engine(self.backend, adapter_budget_bytes=2000, max_queue=20)
        self.target = write_fake_adapter(folder, "target", answer="z" * 1000, nbytes=1000)
        self.others = [write_fake_adapter(folder, name, answer="o" * 1000, nbytes=1000) for name in "pq"]
        self.requests = 0

    def submit(self, adapter: AdapterRef | None, *, prompt: int = 4) -> Stream:
        self.requests += 1
        tokens = tuple((self.requests + n) % 256 for n in range(prompt))
        return self.engine.submit(Request(f"r{self.requests}", tokens, uses(adapter), SamplingParams()))

    def until(self, state: State, stream: Stream) -> None:
        """Lets steps through until the request is in that state, and a step of anybody runs."""
        while not (self.in_a_step() and self.engine._scheduler.state(stream.request_id) is state):
            self.let_through()

    def in_a_step(self) -> bool:
        """The engine has begun the step after those that were let through, and waits in it."""
        return len(self.backend.steps) > self.allowed

    def let_through(self) -> None:
        if self.in_a_step():
            self.allowed += 1
            self.gate.allow(1)
        else:
            threading.Event().wait(0.001)

    def close(self) -> None:
        self.gate.open()
        self.backend.load_gate.set()
        self.engine.close()
        assert not self.backend.violations


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.close()


def waiting(scene: Scene) -> Stream:
    """Two others hold all the memory there is for adapters."""
    for other in scene.others:
        scene.until(State.DECODE, scene.submit(other))
    return scene.submit(scene.target)


def loading(scene: Scene) -> Stream:
    scene.until(State.DECODE, scene.submit(None))
    scene.backend.load_gate.clear()
    return scene.submit(scene.target)


def ready(scene: Scene) -> Stream:
    """Its adapter is there, but no place."""
    for _ in range(2):
        scene.until(State.DECODE, scene.submit(None))
    return scene.submit(scene.target)


def prefill(scene: Scene) -> Stream:
    """A prompt of many steps."""
    return scene.submit(scene.target, prompt=1000)


def decode(scene: Scene) -> Stream:
    return scene.submit(scene.target)


STATES: dict[State, Callable[[Scene], Stream]] = {
    State.WAITING: waiting,
    State.LOADING: loading,
    State.READY: ready,
    State.PREFILL: prefill,
    State.DECODE: decode,
}


def test_every_live_state_is_here() -> None:
    """A new state needs its scene."""
    assert set(STATES) == LIVE


@pytest.mark.parametrize("state", sorted(STATES))
def test_no_step_after_the_one_that_runs(scene: Scene, state: State) -> None:
    """Cancelled while a step runs: that one may hold it, none that begins later does, and its end is Cancelled."""
    stream = STATES[state](scene)
    scene.until(state, stream)
    begun = len(scene.backend.steps)
    stream.cancel()
    scene.backend.load_gate.set()
    scene.gate.open()
    last = list(stream)[-1]
    assert isinstance(last, Failed) and isinstance(last.error, Cancelled)
    assert not any(scene.target.path in step for step in scene.backend.steps[begun:])
    held = sum(scene.target.path in step for step in scene.backend.steps)
    assert bool(held) == (state in (State.PREFILL, State.DECODE)), "it was in that state"


@pytest.mark.parametrize("prompt", [3, 900])
def test_at_most_one_step_begins_after_a_cancel(scene: Scene, prompt: int) -> None:
    """At any moment, while the engine runs freely beside another request: at most the step that was just planned."""
    scene.gate.open()
    scene.submit(None)
    for pause in range(20):
        stream = scene.submit(scene.target, prompt=prompt)
        threading.Event().wait(pause * 0.0004)
        stream.cancel()
        begun = len(scene.backend.steps)
        list(stream)
        assert sum(scene.target.path in step for step in scene.backend.steps[begun:]) <= 1
