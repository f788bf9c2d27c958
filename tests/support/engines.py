"""Engines of both kinds over one fake, and waiting for what another thread or process is about to do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from edgelora.core.events import Failed, Finished
from edgelora.core.request import AdapterRef, Request
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.client import EngineClient
from edgelora.engine.engine import Engine
from edgelora.engine.prefix_cache.cache import PrefixCache
from edgelora.engine.process.messages import Prefixes
from edgelora.engine.process.remote import RemoteEngine
from edgelora.engine.process.watchdog import WatchdogTimes
from edgelora.engine.stream import Stream
from edgelora.store.adapters.quarantine import Quarantine
from edgelora.store.prefixes.store import PrefixStore
from tests.support.fake_backend.tokenizer import FakeTokenizer
from tests.support.openers import open_fake, opening
from tests.support.uses import uses

Kind = Literal["in-process", "child"]
QUICK = WatchdogTimes(turn=0.05, least_delay=0.01, most_delay=0.05, steady=30.0)
WAIT_SECONDS = 30.0


def make(kind: Kind, *, prefixes: Prefixes | None = None, **argument: Any) -> EngineClient:
    """An engine of that kind, ready. `argument`: as `opening` takes it."""
    first = opening(prefixes=prefixes, **argument)
    if kind == "child":
        return started(first)
    backend = open_fake(first.argument, lambda *_: None)
    cache = None
    if prefixes is not None:
        store = PrefixStore(prefixes.root, budget_bytes=prefixes.budget_bytes)
        cache = PrefixCache(store, prefixes.base, kv=backend.kv_identity, template=prefixes.template)
    return Engine(backend, adapter_budget_bytes=first.adapter_budget_bytes, max_queue=first.max_queue, prefixes=cache)


def started(
    first: Any, *, times: WatchdogTimes = QUICK, quarantine: Quarantine | None = None, **more: Any
) -> RemoteEngine:
    """In a process of its own, ready."""
    engine = RemoteEngine(first, tokenizer=FakeTokenizer(), times=times, quarantine=quarantine, **more)
    engine.wait_ready()
    return engine


def request(name: str, prompt: str = "Hi", adapter: AdapterRef | None = None, **sampling: Any) -> Request:
    return Request(name, tuple(prompt.encode()), uses(adapter), replace(SamplingParams(), **sampling))


def error_of(stream: Stream) -> Exception:
    last = list(stream)[-1]
    assert isinstance(last, Failed), last
    return last.error


def finish_of(stream: Stream) -> Finished:
    last = list(stream)[-1]
    assert isinstance(last, Finished), last
    return last


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.002)


def gone(pid: int) -> bool:
    """Whether there is no such process, or only what is left of it until its parent asks."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
