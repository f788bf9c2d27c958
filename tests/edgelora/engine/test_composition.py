"""Composed and gated requests through the engine: their own answers, and no position computed twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgelora.core.errors import AdapterError
from edgelora.core.events import Finished, TextDelta
from edgelora.core.request import AdapterRef, AdapterUse, Request
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.engine import Engine
from edgelora.engine.stream import Stream
from tests.support.fake_backend.backend import FakeBackend, write_fake_adapter


class Rig:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.backend = FakeBackend()
        self.engine = Engine(self.backend, adapter_budget_bytes=1000, max_queue=20)
        self.requests = 0

    def adapter(self, name: str, answer: str | None = None) -> AdapterRef:
        return write_fake_adapter(self.folder, name, answer=answer)

    def submit(self, prompt: str, *uses: AdapterUse) -> Stream:
        self.requests += 1
        return self.engine.submit(
            Request(f"r{self.requests}", tuple(prompt.encode()), uses, SamplingParams(max_tokens=30))
        )

    def ask(self, prompt: str, *uses: AdapterUse) -> tuple[str, int, int]:
        """The answer, tokens that were cached, and tokens of the prompt that the backend computed."""
        before = len(self.backend.history)
        *texts, end = self.submit(prompt, *uses)
        assert isinstance(end, Finished), end
        chunks = [chunk for step in self.backend.history[before:] for chunk in step]
        computed = sum(len(chunk.tokens) for chunk in chunks if chunk.position < len(prompt))
        return "".join(event.text for event in texts if isinstance(event, TextDelta)), end.usage.cached_tokens, computed


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.engine.close()
    assert not rig.backend.violations


def test_weights_and_starts_reach_the_backend(rig: Rig) -> None:
    """The fake says what acted on it: each adapter, its weight and where it began."""
    one, two = rig.adapter("one", "One."), rig.adapter("two", "Two.")
    assert rig.ask("Hi", AdapterUse(two, 0.5), AdapterUse(one))[0] == "One. + Two.*0.5"
    assert rig.ask("Hi", AdapterUse(one, -0.25, start=1))[0] == "One.*-0.25@1"


PREFIX = "A system prompt that all of them share. "


def test_the_shared_prefix_is_computed_once(rig: Rig) -> None:
    """From the base to an aLoRA, to the base, to another aLoRA: only what comes after the invocation is computed."""
    one, two = rig.adapter("one"), rig.adapter("two")
    at = len(PREFIX)
    asked = [
        (PREFIX + "What is it?", ()),
        (PREFIX + "[one] What?", (AdapterUse(one, start=at),)),
        (PREFIX + "And then?", ()),
        (PREFIX + "[two] What?", (AdapterUse(two, start=at),)),
        (PREFIX + "[one] What? Why?", (AdapterUse(two, 0.5), AdapterUse(one, start=at))),
    ]
    answers = [rig.ask(prompt, *uses) for prompt, uses in asked]
    assert [cached for _, cached, _ in answers] == [0, at, at, at, 0], "a weight from the start shares nothing"
    assert all(
        computed == len(prompt) - cached for (prompt, _), (_, cached, computed) in zip(asked, answers, strict=True)
    )
    fresh = Rig(rig.folder)
    for (prompt, uses), (answer, _, _) in zip(asked, answers, strict=True):
        assert fresh.ask(prompt + " ", *uses)[0] != answer, "the fake's answers tell prompts apart"
        lone = Rig(rig.folder)
        assert lone.ask(prompt, *uses) == (answer, 0, len(prompt))
        lone.engine.close()
    fresh.engine.close()


def test_the_same_alora_goes_on_from_its_own_kv(rig: Rig) -> None:
    """One prompt that begins alike with the same start: its invocation is not computed again either."""
    use = AdapterUse(rig.adapter("one"), start=10)
    first = PREFIX + "one"
    assert rig.ask(first, use)[1] == 0
    assert rig.ask(first + " more", use)[1] == len(first)
    assert rig.ask(first + " more", AdapterUse(use.ref, start=20))[1] == 10, (
        "invoked elsewhere it is another KV from there"
    )
    assert rig.ask(first + " more", AdapterUse(use.ref, 0.5, start=10))[1] == 10


def test_the_order_shares_kv(rig: Rig) -> None:
    """Two lists of the same adapters are the same request."""
    one, two = AdapterUse(rig.adapter("one"), 0.5), AdapterUse(rig.adapter("two"), 0.25)
    answer = rig.ask(PREFIX, one, two)[0]
    assert rig.ask(PREFIX, two, one) == (answer, len(PREFIX) - 1, 1)


def test_one_failed_load_of_two_fails_the_request_alone(rig: Rig) -> None:
    """The other adapter is there for who wants it, and nothing stays held."""
    good, gone = rig.adapter("good", "Good."), rig.adapter("gone")
    gone.path.unlink()
    with pytest.raises(AdapterError):
        rig.submit("Hi", AdapterUse(good), AdapterUse(gone)).text()
    assert rig.ask("Hi", AdapterUse(good))[0] == "Good."
    assert all(entry.leases == 0 for entry in rig.engine.stats().adapters)


def test_many_pairs_over_few_slots_all_end(rig: Rig) -> None:
    """Pairs that overlap in every way, more adapters than slots: nobody waits for ever."""
    refs = [rig.adapter(f"a{n}", f"{n}.") for n in range(6)]
    pairs = [(one, two) for n, one in enumerate(refs) for two in refs[:n]]
    streams = [rig.submit("Hi", AdapterUse(one), AdapterUse(two)) for one, two in pairs]
    assert [stream.text() for stream in streams] == [
        " + ".join(sorted((f"{refs.index(one)}.", f"{refs.index(two)}."))) for one, two in pairs
    ]
