"""An aLoRA over the real tiny base, through the engine: KV reused up to its start, and the tokens of a fresh engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from edgelora.core.events import Finished, TextDelta
from edgelora.core.request import AdapterRef, AdapterUse, Request
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.engine import Engine
from tests.edgelora.backends.llama_cpp.conftest import EXACT, KERNELS, Installed, open_backend

SHARED = tuple(range(3, 33))


def ref(installed: Installed, number: int) -> AdapterRef:
    return AdapterRef(f"a{number}", f"v{number}", installed.mapped[number], 1000)


@contextmanager
def engine(installed: Installed, kernel: str) -> Iterator[Engine]:
    backend = open_backend(installed, replace(EXACT, kernel=kernel))
    engine = Engine(backend, adapter_budget_bytes=1 << 20, max_queue=20)
    try:
        yield engine
    finally:
        engine.close()


def ask(engine: Engine, prompt: tuple[int, ...], *uses: AdapterUse) -> tuple[str, int]:
    """What it says to a prompt, and how much of that was cached."""
    *texts, end = engine.submit(Request(f"{prompt}{uses}", prompt, uses, SamplingParams(max_tokens=12)))
    assert isinstance(end, Finished), end
    return "".join(event.text for event in texts if isinstance(event, TextDelta)), end.usage.cached_tokens


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_shared_prefix_is_not_computed_again(installed: Installed, kernel: str) -> None:
    """Base, aLoRA, base, another aLoRA, one composed with it: warm answers are those of engines that know nothing."""
    one, two = ref(installed, 0), ref(installed, 1)
    at = len(SHARED)
    asked = [
        ((*SHARED, 40, 41), (), 0),
        ((*SHARED, 50, 51, 52), (AdapterUse(one, start=at),), at),
        ((*SHARED, 60), (), at),
        ((*SHARED, 50, 51, 52), (AdapterUse(two, start=at),), at),
        ((*SHARED, 50, 51, 52, 53), (AdapterUse(two, start=at), AdapterUse(one, 0.5, start=at + 2)), at + 2),
    ]
    with engine(installed, kernel) as warm:
        answers = [ask(warm, prompt, *uses) for prompt, uses, _ in asked]
    assert [cached for _, cached in answers] == [cached for *_, cached in asked]
    assert len({answer for answer, _ in answers}) == len(asked)
    for (prompt, uses, _), (answer, _) in zip(asked, answers, strict=True):
        with engine(installed, kernel) as fresh:
            assert ask(fresh, prompt, *uses) == (answer, 0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_all_kinds_in_one_batch(installed: Installed, kernel: str) -> None:
    """Side by side from the first step on: what each says alone."""
    one, two = ref(installed, 0), ref(installed, 1)
    kinds: list[tuple[AdapterUse, ...]] = [
        (),
        (AdapterUse(one),),
        (AdapterUse(one, 0.7), AdapterUse(two, 0.3)),
        (AdapterUse(two, start=5),),
        (AdapterUse(one, 0.5), AdapterUse(two, start=9)),
    ]
    prompts = [tuple(range(n + 2, n + 14)) for n in range(len(kinds))]
    with engine(installed, kernel) as alone:
        expected = [ask(alone, prompt, *uses)[0] for prompt, uses in zip(prompts, kinds, strict=True)]
    with engine(installed, kernel) as together:
        streams = [
            together.submit(Request(f"r{n}", prompt, uses, SamplingParams(max_tokens=12)))
            for n, (prompt, uses) in enumerate(zip(prompts, kinds, strict=True))
        ]
        assert [stream.text() for stream in streams] == expected
