"""What an engine's process opens in tests, named by import path: a fake that can be told to die, and how."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelora.backends.base import Chunk, Loaded
from edgelora.core.errors import BackendError, BaseError
from edgelora.core.progress import Progress
from edgelora.engine.process.messages import Open, Prefixes
from tests.support.fake_backend.backend import FAKE_CAPABILITIES, FakeBackend, FakeLoaded
from tests.support.fake_backend.tokenizer import FakeTokenizer

DEATHS = ("abort", "segv", "kill", "exit", "hang", "print", "clear", "stand")
"""`!abort` anywhere in what is computed, or in an adapter's file as `load!abort`, `attach!abort` or `step!abort`."""


class StuckTokenizer(FakeTokenizer):
    """Never returns from `piece`, which the engine calls on its own thread, outside any call into the backend."""

    def piece(self, token: int) -> bytes:
        time.sleep(600)
        return super().piece(token)


class Mortal(FakeBackend):
    """`step_seconds`: the time of each step. `load_seconds`: of each load. `once`: a path; dies only where that file is
    missing, and leaves it there.
    """

    def __init__(
        self, *, step_seconds: float = 0.0, load_seconds: float = 0.0, once: str | None = None, **more: Any
    ) -> None:
        super().__init__(**more)
        self._seconds = step_seconds
        self._load_seconds = load_seconds
        self._once = None if once is None else Path(once)
        self._broken = False

    def load(self, path: Path) -> FakeLoaded:
        time.sleep(self._load_seconds)
        loaded = super().load(path)
        self._obey(b"load", loaded.content)
        return loaded

    def attach(self, slot: int, loaded: Loaded) -> None:
        if isinstance(loaded, FakeLoaded):
            self._obey(b"attach", loaded.content)
        super().attach(slot, loaded)

    def clear(self, sequence: int) -> None:
        if self._broken:
            raise RuntimeError("the KV cannot be cleared")
        super().clear(sequence)

    def step(self, chunks: Sequence[Chunk]) -> list[NDArray[np.float32] | None]:
        if self._seconds:
            time.sleep(self._seconds)
        for chunk in chunks:
            tail = [*self.kv.get(chunk.sequence, ())[-16:], *chunk.tokens]
            self._obey(b"", bytes(token for token in tail if token < 256))
            for applied in chunk.adapters:
                self._obey(b"step", self.slots[applied.slot].content)
        return super().step(chunks)

    def _obey(self, phase: bytes, said: bytes) -> None:
        for death in DEATHS:
            if phase + b"!" + death.encode() in said:
                self._die(death)

    def _die(self, death: str) -> None:
        if self._once is not None:
            if self._once.exists():
                return
            self._once.touch()
        if death == "print":
            print("a line on stdout", flush=True)
            os.write(1, b"a line on descriptor 1\n")
            return
        if death == "stand":
            self.tokenizer = StuckTokenizer()
            return
        if death == "clear":
            self._broken = True
            raise BackendError("step_failed", "The step failed.")
        print(f"dying by {death}", file=sys.stderr, flush=True)
        if death == "abort":
            os.abort()
        elif death == "segv":
            faulthandler._sigsegv()  # type: ignore[attr-defined]
        elif death == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif death == "exit":
            os._exit(1)
        time.sleep(600)


def open_fake(argument: bytes, progress: Progress) -> FakeBackend:
    """The opener. `argument`: JSON as `opening` makes it."""
    asked = json.loads(argument)
    if (missing := asked.pop("missing", None)) and not Path(missing).exists():
        raise BaseError("base_gone", "The base is gone.", "Put it back.")
    if (dying := asked.pop("dying", None)) and not Path(dying).exists():
        os.abort()
    time.sleep(asked.pop("seconds", 0.0))
    progress("Loading", 1, 2)
    able = replace(FAKE_CAPABILITIES, **asked.pop("able", {}))
    answers = {None: asked.pop("answer")} if "answer" in asked else {}
    return Mortal(answers=answers, capabilities=able, **asked)


def opening(*, max_queue: int = 20, budget: int = 1000, prefixes: Prefixes | None = None, **argument: Any) -> Open:
    """What a RemoteEngine is made with, over `open_fake`."""
    return Open(
        "tests.support.openers:open_fake",
        json.dumps(argument).encode(),
        budget,
        max_queue,
        False,
        os.getpid(),
        prefixes,
    )
