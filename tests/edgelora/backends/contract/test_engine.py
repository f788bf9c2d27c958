"""The engine over every backend: batches, turns, reuse, seeds, stops, cancels, drafts and prefixes on disk."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgelora.backends.base import Backend, Chunk
from edgelora.core.errors import Cancelled
from edgelora.core.events import Failed, Finished, FinishReason, TextDelta
from edgelora.core.request import AdapterRef, AdapterUse, Request
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.engine import Engine
from edgelora.engine.prefix_cache.cache import PrefixCache, PrefixWrite
from edgelora.engine.stream import Stream
from edgelora.text.schema_grammar import of_schema
from tests.edgelora.backends.contract.conftest import Kind
from tests.support.prefixes import store_at
from tests.support.steps import Lane, advance
from tests.support.uses import uses

SHARED = tuple(range(3, 33))


class Endless:
    """No token ends an answer, and each is written by its number."""

    end_ids: frozenset[int] = frozenset()

    def __init__(self, tokenizer: Any) -> None:
        self.size = tokenizer.size

    def piece(self, token: int) -> bytes:
        return b"%d " % token


class Noting:
    """The backend itself, as a rule with an endless vocabulary. Counts sequences that began, and can hold the steps."""

    def __init__(self, backend: Backend, *, ends: bool) -> None:
        self._backend = backend
        self.tokenizer: Any = backend.tokenizer if ends else Endless(backend.tokenizer)
        self.begun = 0
        self._released = threading.Event()
        self._steps_before_hold = sys.maxsize

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def hold(self, *, after: int) -> None:
        """Let `after` more steps run; the next one waits for `release`. However fast steps are, requests overlap."""
        self._steps_before_hold = after

    def release(self) -> None:
        self._released.set()

    def step(self, chunks: Sequence[Chunk]) -> list[NDArray[np.float32] | None]:
        if self._steps_before_hold == 0:
            assert self._released.wait(60), "the test never released the steps"
        else:
            self._steps_before_hold -= 1
        self.begun += sum(chunk.position == 0 for chunk in chunks)
        return self._backend.step(chunks)


@contextmanager
def engine(
    kind: Kind, *, prefixes: PrefixCache | None = None, speculate: bool = False, ends: bool = False, **limits: Any
) -> Iterator[Any]:
    """An engine over a fresh backend, whose own vocabulary counts with `ends`; `.noting` counts."""
    backend = Noting(kind.open(**limits), ends=ends)
    engine: Any = Engine(backend, adapter_budget_bytes=1 << 24, max_queue=20, prefixes=prefixes, speculate=speculate)
    engine.noting = backend
    try:
        yield engine
    finally:
        backend.release()
        engine.close()


def ref(kind: Kind, number: int) -> AdapterRef:
    return AdapterRef(f"a{number}", f"v{number}", kind.paths[number], 1000)


def submit(engine: Engine, prompt: Sequence[int], *acting: AdapterUse, **sampling: Any) -> Stream:
    params = SamplingParams(**{"max_tokens": 12} | sampling)
    return engine.submit(Request(f"{prompt}{acting}{params}", tuple(prompt), acting, params))


def answer(stream: Stream) -> tuple[str, Finished]:
    *texts, end = stream
    assert isinstance(end, Finished), end
    return "".join(event.text for event in texts if isinstance(event, TextDelta)), end


def ask(engine: Engine, prompt: Sequence[int], *acting: AdapterUse, **sampling: Any) -> tuple[str, int]:
    """What it says, and how much of the prompt was cached."""
    text, end = answer(submit(engine, prompt, *acting, **sampling))
    return text, end.usage.cached_tokens


def test_all_kinds_in_one_batch(kind: Kind) -> None:
    """Base, plain, composed, gated, side by side from the first step on: what each says alone."""
    one, two, three = (ref(kind, n) for n in (0, 1, 2))
    acting: list[tuple[AdapterUse, ...]] = [
        (),
        (AdapterUse(one),),
        (AdapterUse(one, 0.7), AdapterUse(two, 0.3)),
        (AdapterUse(two, start=5),),
        (AdapterUse(three, 0.5), AdapterUse(two, start=9)),
        (AdapterUse(three),),
    ]
    prompts = [tuple(range(n + 2, n + 14)) for n in range(len(acting))]
    with engine(kind) as alone:
        expected = [ask(alone, prompt, *own)[0] for prompt, own in zip(prompts, acting, strict=True)]
    with engine(kind) as together:
        streams = [submit(together, prompt, *own) for prompt, own in zip(prompts, acting, strict=True)]
        assert [answer(stream)[0] for stream in streams] == expected
    assert len(set(expected)) == len(expected)


def test_the_shared_prefix_is_not_computed_again(kind: Kind) -> None:
    """Base, aLoRA, base, another aLoRA, one composed with it: warm answers are those of engines that know nothing."""
    one, two = ref(kind, 0), ref(kind, 1)
    at = len(SHARED)
    asked: list[tuple[tuple[int, ...], tuple[AdapterUse, ...], int]] = [
        ((*SHARED, 40, 41), (), 0),
        ((*SHARED, 50, 51, 52), (AdapterUse(one, start=at),), at),
        ((*SHARED, 60), (), at),
        ((*SHARED, 50, 51, 52), (AdapterUse(two, start=at),), at),
        ((*SHARED, 50, 51, 52, 53), (AdapterUse(two, start=at), AdapterUse(one, 0.5, start=at + 2)), at + 2),
    ]
    with engine(kind) as warm:
        answers = [ask(warm, prompt, *own) for prompt, own, _ in asked]
    assert [cached for _, cached in answers] == [cached for *_, cached in asked]
    for (prompt, own, _), (text, _) in zip(asked, answers, strict=True):
        with engine(kind) as fresh:
            assert ask(fresh, prompt, *own) == (text, 0)


def test_a_preempted_request_answers_as_undisturbed(kind: Kind) -> None:
    """KV for hardly three of six: some begin again, with all their tokens, and no answer shows it."""
    paths = (None, *range(len(kind.paths)))

    def answers(*, together: bool, **limits: Any) -> tuple[list[str], int]:
        with engine(kind, **limits) as running:
            # The adapters are in memory and no step runs before all six are submitted, so they do compete for KV.
            for number in range(len(kind.paths)):
                assert running.fetch(ref(kind, number)).result(60)
            if together:
                running.noting.hold(after=0)
            streams: list[Stream] = []
            texts: list[str] = []
            for number, length in enumerate((5, 12, 7, 9, 16, 6)):
                chosen = paths[number % len(paths)]
                prompt = [1 + (31 * number + 7 * n) % 250 for n in range(length)]
                own = uses(None if chosen is None else ref(kind, chosen))
                streams.append(submit(running, prompt, *own, max_tokens=80))
                if not together:
                    texts.append(answer(streams[-1])[0])
            running.noting.release()
            return texts or [answer(stream)[0] for stream in streams], running.noting.begun

    expected, begun = answers(together=False)
    assert begun == 6
    found, begun = answers(together=True, kv_cells=256)
    assert found == expected
    assert begun > 6, "the test is about preemption"


def test_a_seed_is_an_answer(kind: Kind) -> None:
    """Sampled with a seed: the same alone, again, and in a batch with others; another seed gives another answer."""
    sampled = {"temperature": 1.5, "top_p": 0.95, "max_tokens": 16}
    with engine(kind) as running:
        first = ask(running, SHARED, AdapterUse(ref(kind, 0)), seed=7, **sampled)[0]
    with engine(kind) as running:
        others = [submit(running, SHARED[n:], AdapterUse(ref(kind, n)), seed=n, **sampled) for n in (1, 2, 3)]
        again = submit(running, SHARED, AdapterUse(ref(kind, 0)), seed=7, **sampled)
        assert answer(again)[0] == first
        assert all(answer(stream)[0] for stream in others)
        if kind.computes:  # The fake is all but certain of every token.
            assert ask(running, SHARED, AdapterUse(ref(kind, 0)), seed=8, **sampled)[0] != first


def test_logprobs_are_the_models(kind: Kind) -> None:
    """Beside others in a batch: of each token, and of those that were likeliest in its place, as computed alone."""
    with engine(kind) as running:
        other = submit(running, SHARED[3:], AdapterUse(ref(kind, 2)), max_tokens=8)
        stream = submit(running, SHARED, AdapterUse(ref(kind, 1)), max_tokens=8, logprobs=3)
        scored = [token for event in stream if isinstance(event, TextDelta) for token in event.tokens]
        answer(other)
    assert len(scored) == 8
    backend = kind.open()
    backend.attach(0, backend.load(kind.paths[1]))
    lane = Lane(0, 0, list(SHARED))
    for token in scored:
        advance(backend, [(lane, lane.chunk(64))])
        assert lane.logits is not None
        exact = lane.logits.astype(np.float64)
        exact -= exact.max() + np.log(np.exp(exact - exact.max()).sum())
        assert token.chosen.token == int(exact.argmax()) and len(token.top) == 3
        for one in (token.chosen, *token.top):
            assert abs(one.logprob - exact[one.token]) < 1e-3
        lane.tokens.append(token.chosen.token)
    backend.close()


def test_a_bias_chooses(kind: Kind) -> None:
    """What is pushed comes, what is pushed away does not; the neighbours' answers are their own."""
    with engine(kind) as running:
        free = ask(running, SHARED)[0]
        first = int(free.split()[0])
        streams = [
            submit(running, SHARED, logit_bias=((70, 100.0),), max_tokens=5),
            submit(running, SHARED, logit_bias=((first, -100.0),)),
            submit(running, SHARED),
        ]
        pushed, without, same = (answer(stream)[0] for stream in streams)
    assert pushed == "70 " * 5 and without.split()[0] != str(first) and same == free


def test_an_answer_is_held_to_its_schema(kind: Kind) -> None:
    """Whatever the model wants to say: one of two words in JSON, on an adapter and the base; free answers stay free."""
    words = of_schema({"enum": ["yes", "no"]}, param="response_format")
    with engine(kind, ends=True) as running:
        free = ask(running, SHARED, max_tokens=10)[0]
        streams = [
            submit(running, SHARED, constraint=words, max_tokens=20),
            submit(running, SHARED, AdapterUse(ref(kind, 1)), constraint=words, max_tokens=20),
            submit(running, SHARED, max_tokens=10),
        ]
        *held, same = (answer(stream) for stream in streams)
    assert all(text in ('"yes"', '"no"') and end.reason is FinishReason.STOP for text, end in held)
    assert same[0] == free


def test_a_stop_string_ends_the_answer_before_it(kind: Kind) -> None:
    """Wherever in the text it comes, also over two tokens; nothing of it is sent."""
    with engine(kind) as running:
        whole = ask(running, SHARED, max_tokens=20)[0]
        for stop in (whole[10:14], whole[5:6], whole[:3]):
            text, end = answer(submit(running, SHARED, max_tokens=20, stop=(stop,)))
            assert text == whole[: whole.index(stop)] and end.reason is FinishReason.STOP
        assert answer(submit(running, SHARED, max_tokens=20, stop=("absent",)))[1].reason is FinishReason.LENGTH


def test_a_cancel_ends_one_and_leaves_the_others(kind: Kind) -> None:
    """Its end is told, the neighbour's answer is that of nobody cancelled, and its place is free again."""
    with engine(kind) as running:
        expected = ask(running, SHARED[5:], AdapterUse(ref(kind, 1)), max_tokens=40)[0]
    with engine(kind) as running:
        running.noting.hold(after=3)
        gone = submit(running, SHARED, AdapterUse(ref(kind, 0)), max_tokens=60)
        kept = submit(running, SHARED[5:], AdapterUse(ref(kind, 1)), max_tokens=40)
        events = iter(gone)
        next(events)
        gone.cancel()
        running.noting.release()
        (*_, end) = events
        assert isinstance(end, Failed) and isinstance(end.error, Cancelled)
        assert answer(kept)[0] == expected
        streams = [submit(running, [n, *SHARED], max_tokens=4) for n in range(8)]
        assert all(answer(stream)[0] for stream in streams)


def test_drafts_change_no_answer(kind: Kind) -> None:
    """Several tokens in a step where the text repeats: the answers of an engine that drafts nothing."""
    prompt = [*range(10, 20)] * 4
    acting = [(), (AdapterUse(ref(kind, 0)),), (AdapterUse(ref(kind, 1), start=12),)]
    with engine(kind) as plain, engine(kind, speculate=True) as drafting:
        for own in acting:
            assert ask(plain, prompt, *own, max_tokens=40)[0] == ask(drafting, prompt, *own, max_tokens=40)[0]


@pytest.mark.parametrize("number", [None, 1])
def test_a_prefix_on_disk_is_there_after_a_restart(kind: Kind, number: int | None, tmp_path: Path) -> None:
    """Kept by one engine, restored by the next: as many tokens not computed, the same answers, never for another."""
    system = tuple(3 + n % 200 for n in range(64))
    own = uses(None if number is None else ref(kind, number))
    store = tmp_path / "prefixes"

    def cache(backend: Backend) -> PrefixCache:
        made = PrefixCache(store_at(store), kind.base, kv=backend.kv_identity, template="b" * 64)
        made.know_base()
        return made

    def begin() -> Any:
        probe = kind.open()
        prefixes = cache(probe)
        probe.close()
        return engine(kind, prefixes=prefixes)

    with engine(kind) as plain:
        expected = [ask(plain, (*system, n), *own)[0] for n in (70, 71)]
    with begin() as first:
        keep = PrefixWrite(frozenset(use.key for use in own), system)
        params = SamplingParams(max_tokens=12)
        stream = first.submit(Request("kept", (*system, 70), own, params, system=len(system)), keep=keep)
        assert answer(stream)[0] == expected[0]
        assert keep.done.result(timeout=30).length == len(system)
    with begin() as second:
        assert ask(second, (*system, 71), *own) == (expected[1], len(system))
        other = AdapterUse(ref(kind, 2))
        assert ask(second, (*system, 71), other)[1] == 0
