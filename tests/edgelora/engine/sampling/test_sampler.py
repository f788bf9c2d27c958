"""Choosing a token: every fast path against a slow reference written from the definition."""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgelora.core.errors import BackendError, UsageError
from edgelora.core.sampling_params import SamplingParams, validate
from edgelora.engine.sampling.logits_processors import (
    History,
    make_logits_processors,
    presence_frequency,
    repetition,
)
from edgelora.engine.sampling.sampler import Sampler, scale
from edgelora.engine.sampling.truncation import candidates, top

VOCAB = 128_256


def array(values: list[float]) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def random_logits(seed: int, size: int = VOCAB) -> NDArray[np.float32]:
    return np.random.Generator(np.random.PCG64(seed)).normal(0, 4, size).astype(np.float32)


def slow_candidates(logits: NDArray[np.float32], params: SamplingParams) -> list[int]:
    """A full sort, then each filter in turn, as the module's docstring orders them."""
    ids = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    ids = ids[: params.top_k] if params.top_k else ids
    weights = [math.exp(float(logits[i]) - float(logits[ids[0]])) for i in ids]
    mass, total = 0.0, math.fsum(weights)
    kept = []
    for token, weight in zip(ids, weights, strict=True):
        kept.append(token)
        mass += weight
        if mass >= params.top_p * total:
            break
    return [t for t in kept if params.min_p == 0 or logits[t] >= float(logits[ids[0]]) + math.log(params.min_p)]


def chosen_set(logits: NDArray[np.float32], params: SamplingParams) -> list[int]:
    kept = candidates(logits, params)
    return list(range(len(logits))) if kept is None else kept.tolist()


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.sampled_from([-math.inf, -3.0, -1.0, 0.0, 0.5, 2.0, 5.0]), min_size=1, max_size=200),
    st.integers(0, 12),
    st.sampled_from([0.0, 0.3, 0.77, 0.95, 1.0]),
    st.sampled_from([0.0, 0.01, 0.2, 1.0]),
)
def test_filters_agree_with_a_full_sort(values: list[float], top_k: int, top_p: float, min_p: float) -> None:
    """Any logits, ties and forbidden tokens included: the same tokens as the reference keeps, forbidden ones aside."""
    logits = array([*values, 1.0])
    params = SamplingParams(temperature=1.0, top_k=top_k, top_p=top_p, min_p=min_p)
    fast, slow = chosen_set(logits, params), slow_candidates(logits, params)
    assert {i for i in fast if np.isfinite(logits[i])} == {i for i in slow if np.isfinite(logits[i])}


@pytest.mark.parametrize("params", [{"top_k": 40}, {"top_p": 0.9}, {"top_p": 0.999}, {"top_k": 5000, "top_p": 0.97}])
def test_a_real_vocabulary_agrees_too(params: dict[str, float]) -> None:
    """128,256 tokens: the same ids in the same order as a full sort gives."""
    logits, wanted = random_logits(1), replace(SamplingParams(temperature=1.0), **params)  # type: ignore[arg-type]
    assert chosen_set(logits, wanted) == slow_candidates(logits, wanted)


def test_top_breaks_ties_by_id() -> None:
    """Equal logits at the edge: the lower ids are in."""
    assert top(array([1, 2, 2, 2, 0]), 2).tolist() == [1, 2]
    assert top(array([1, 2, 3]), 9).tolist() == [2, 1, 0]


def test_greedy_takes_the_lowest_of_equal_ids() -> None:
    """temperature 0 is the largest logit, whatever else is set."""
    params = SamplingParams(temperature=0.0, top_k=1, top_p=0.1, seed=3)
    assert Sampler(params, ()).choose(array([0, 7, 7, 1])) == 1


def test_the_same_seed_gives_the_same_tokens() -> None:
    """Two samplers with one seed agree draw for draw; another seed differs; so does no seed at all, twice."""

    def draws(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingParams(temperature=1.0, seed=seed), ())
        return [sampler.choose(random_logits(n, 500)) for n in range(40)]

    assert draws(7) == draws(7) != draws(8)
    assert draws(-1) == draws((1 << 64) - 1)
    assert draws(None) != draws(None)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_distribution(temperature: float) -> None:
    """4,000 seeded draws: each token within five standard deviations of its probability."""
    logits = array([2.0, 1.0, 0.0, -1.0])
    weights = np.exp(logits.astype(np.float64) / temperature)
    sampler = Sampler(SamplingParams(temperature=temperature, seed=11), ())
    counts = Counter(sampler.choose(logits) for _ in range(4000))
    for token, share in enumerate(weights / weights.sum()):
        assert abs(counts[token] - 4000 * share) <= 5 * math.sqrt(4000 * share * (1 - share))


def test_filtered_tokens_are_never_drawn() -> None:
    """top_k, top_p and min_p bind at any temperature, on the probabilities after it."""
    logits = array([3.0, 2.9, 2.8, -5.0, -6.0])
    for params in ({"top_k": 2}, {"top_p": 0.24}, {"min_p": 0.997}):
        sampler = Sampler(replace(SamplingParams(temperature=50.0, seed=1), **params), ())
        assert {sampler.choose(logits) for _ in range(200)} == {0, 1}


def transformers_distribution(logits: NDArray[np.float32], params: SamplingParams) -> NDArray[np.float64]:
    """The probability of each token, by transformers' warpers one after the other: temperature, top_k, top_p, min_p."""
    z = logits.astype(np.float64) / params.temperature
    if 0 < params.top_k < len(z):
        z[z < np.sort(z)[-params.top_k]] = -np.inf
    p = np.exp(z - z.max())
    order = np.lexsort((np.arange(len(z)), -z))
    mass = (p / p.sum())[order].cumsum()
    z[order[int(np.searchsorted(mass, params.top_p)) + 1 :]] = -np.inf
    p = np.exp(z - z.max())
    p[p < params.min_p * p.max()] = 0
    return np.asarray(p / p.sum())


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 1.0},
        {"temperature": 0.6, "top_p": 0.9},
        {"temperature": 1.3, "top_p": 0.9},
        {"temperature": 2.0, "top_p": 0.8, "min_p": 0.2},
        {"temperature": 1.5, "top_k": 4, "min_p": 0.1},
        {"temperature": 0.4, "top_k": 5, "top_p": 0.95, "min_p": 0.01},
    ],
)
def test_the_distribution_is_transformers(fields: dict[str, float]) -> None:
    """Temperature before top_k, top_p and min_p: 20,000 draws, each token within five standard deviations."""
    logits = array([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -3.0])
    params = replace(SamplingParams(seed=5), **fields)  # type: ignore[arg-type]
    sampler = Sampler(params, ())
    counts = np.bincount([sampler.choose(logits) for _ in range(20_000)], minlength=len(logits))
    wanted = transformers_distribution(logits, params)
    assert not counts[wanted == 0].any()
    assert np.all(np.abs(counts - 20_000 * wanted) <= 5 * np.sqrt(20_000 * wanted * (1 - wanted)))


def test_a_tiny_temperature_is_greedy() -> None:
    """No overflow on the way to certainty."""
    assert Sampler(SamplingParams(temperature=1e-300, seed=1), ()).choose(array([-1e30, 1.0, 2.0])) == 2


def test_the_penalty_pushes_seen_tokens_down() -> None:
    """Positive logits are divided and others multiplied, once however often a token was seen; the input stays."""
    logits = array([4.0, -4.0, 0.0, 4.0])
    before = logits.copy()
    assert repetition(logits, (0, 0, 1, 2), 2.0).tolist() == [2.0, -8.0, 0.0, 4.0]
    assert np.array_equal(logits, before)
    assert repetition(logits, (), 2.0) is logits


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 9), max_size=20), st.sampled_from([-2.0, 0.0, 0.7]), st.sampled_from([-0.5, 0.0, 2.0]))
def test_openai_s_penalties_follow_their_definition(said: list[int], presence: float, frequency: float) -> None:
    """logit - (it was said) * presence - (times it was said) * frequency; the input stays."""
    logits = random_logits(4, 10)
    before, counts = logits.copy(), Counter(said)
    found = presence_frequency(logits, counts, presence=presence, frequency=frequency)
    wanted = [float(value) - (t in counts) * presence - counts[t] * frequency for t, value in enumerate(logits)]
    assert found == pytest.approx(wanted, abs=1e-5) and np.array_equal(logits, before)


def test_openai_s_penalties_count_the_answer_alone() -> None:
    """The prompt's tokens are free; each of the answer's costs once more."""
    sampler = Sampler(SamplingParams(frequency_penalty=1.5), (0, 0, 0))
    assert [sampler.choose(array([5.0, 4.0, 3.0])) for _ in range(4)] == [0, 1, 0, 2]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_processors_are_those_that_are_asked_for_in_llama_cpps_order(data: st.DataObject) -> None:
    """None for the defaults; else bias, repeat penalty, then presence and frequency, written out here as one sum."""
    bias = data.draw(st.dictionaries(st.integers(0, 9), st.floats(-5, 5, width=32), max_size=3))
    repeat, presence, frequency = (
        data.draw(st.sampled_from(values)) for values in ((1.0, 1.3), (0.0, 0.7), (0.0, -0.5))
    )
    params = SamplingParams(
        logit_bias=tuple(bias.items()),
        repeat_penalty=repeat,
        presence_penalty=presence,
        frequency_penalty=frequency,
    )
    history = History((1, 2, 3), last=4)
    for token in (answer := data.draw(st.lists(st.integers(0, 9), max_size=6))):
        history.append(token)
    processors = make_logits_processors(params, history)
    assert len(processors) == bool(bias) + (repeat != 1.0) + bool(presence or frequency)
    logits = random_logits(5, 10)
    wanted = [float(value) + bias.get(token, 0.0) for token, value in enumerate(logits)]
    for token in set([1, 2, 3, *answer][-4:]):
        wanted[token] = wanted[token] / repeat if wanted[token] > 0 else wanted[token] * repeat
    for token, times in Counter(answer).items():
        wanted[token] -= presence + times * frequency
    before = logits.copy()
    processed = logits
    for process in processors:
        processed = process(processed)
    assert processed == pytest.approx(wanted, abs=1e-4) and np.array_equal(logits, before)


class OldOrder:
    """The order of operations before processors were a list, written out: bias, repeat penalty, OpenAI's two."""

    def __init__(self, params: SamplingParams, prompt: tuple[int, ...]) -> None:
        self.params = params
        self.recent = deque(prompt, maxlen=params.repeat_last_n)
        self.counts: Counter[int] = Counter()
        self.generator = np.random.Generator(np.random.PCG64(params.seed))

    def choose(self, logits: NDArray[np.float32]) -> int:
        params, logits = self.params, logits.copy()
        for token, bias in params.logit_bias:
            logits[token] += np.float32(bias)
        for token in set(self.recent):
            value = logits[token]
            logits[token] = value / params.repeat_penalty if value > 0 else value * params.repeat_penalty
        logits = presence_frequency(
            logits, self.counts, presence=params.presence_penalty, frequency=params.frequency_penalty
        )
        scaled = scale(logits, params.temperature)
        kept = candidates(scaled, params)
        ids = np.arange(len(logits)) if kept is None else kept
        steps = np.exp(scaled[ids].astype(np.float64)).cumsum()
        place = int(np.searchsorted(steps, self.generator.random() * steps[-1], side="right"))
        token = int(ids[min(place, len(ids) - 1)])
        self.recent.append(token)
        self.counts[token] += 1
        return token


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"logit_bias": ((3, 2.5), (11, -4.0))},
        {"repeat_penalty": 1.3, "repeat_last_n": 5},
        {"presence_penalty": 0.7, "frequency_penalty": -0.4},
        {"logit_bias": ((3, 2.5),), "repeat_penalty": 1.2, "presence_penalty": 0.5, "top_p": 0.9, "top_k": 20},
    ],
)
def test_the_same_seed_gives_the_tokens_of_the_old_order(fields: dict[str, object]) -> None:
    """Token for token, over sixty steps that depend on one another."""
    params = replace(SamplingParams(temperature=0.9, seed=7), **fields)  # type: ignore[arg-type]
    prompt = (1, 2, 3, 11)
    sampler, old = Sampler(params, prompt), OldOrder(params, prompt)
    steps = [random_logits(step, 40) for step in range(60)]
    assert [sampler.choose(logits) for logits in steps] == [old.choose(logits) for logits in steps]


def test_nothing_ends_the_answer_early() -> None:
    """End and stop tokens come no sooner than min_tokens says, however likely they are; with ignore_eos, never."""
    logits = array([9.0, 8.0, 7.0, 3.0])
    early = Sampler(SamplingParams(min_tokens=2, stop_token_ids=(1,)), (), end_ids={0})
    assert [(early.choose(logits), early.may_stop) for _ in range(3)] == [(2, False), (2, False), (0, True)]
    endless = Sampler(SamplingParams(ignore_eos=True, stop_token_ids=(1,)), (), end_ids={0})
    assert [endless.choose(logits) for _ in range(3)] == [1, 1, 1]
    drawn = Sampler(SamplingParams(temperature=5.0, seed=1, min_tokens=300), (), end_ids={0})
    assert {drawn.choose(logits) for _ in range(300)} == {1, 2, 3}


def test_an_end_that_is_all_there_is_may_come() -> None:
    """A constraint that allows only the end is complete: nothing could be written in its place."""
    for params in (SamplingParams(min_tokens=5), SamplingParams(ignore_eos=True)):
        assert Sampler(params, (), end_ids={0, 1}).choose(array([2.0, 1.0, -math.inf])) == 0


def test_bias_is_added() -> None:
    """For the tokens it names; 100 either way as good as decides."""
    logits = array([5.0, 4.0, 3.0])
    assert Sampler(SamplingParams(logit_bias=((2, 1.9),)), ()).choose(logits) == 0
    assert Sampler(SamplingParams(logit_bias=((2, 2.1),)), ()).choose(logits) == 2
    hot = Sampler(SamplingParams(temperature=2.0, seed=1, logit_bias=((0, -100.0), (1, -100.0))), ())
    assert {hot.choose(logits) for _ in range(50)} == {2} and logits.tolist() == [5.0, 4.0, 3.0]


def test_the_penalty_looks_at_the_latest_tokens() -> None:
    """The prompt counts, chosen tokens count, and both are forgotten after repeat_last_n."""
    sampler = Sampler(SamplingParams(repeat_penalty=10.0, repeat_last_n=2), (0, 1))
    logits = array([5.0, 4.0, 3.0, 2.0])
    assert [sampler.choose(logits) for _ in range(5)] == [2, 0, 1, 2, 0]
    unlimited = Sampler(SamplingParams(repeat_penalty=10.0, repeat_last_n=0), (0, 1))
    assert [unlimited.choose(logits) for _ in range(2)] == [0, 0]


@pytest.mark.parametrize("values", [[0.0, math.nan], [math.inf, 0.0], [-math.inf, -math.inf]])
def test_damaged_logits_are_an_error(values: list[float]) -> None:
    """NaN, +inf, or nothing allowed: an error, never a token."""
    with pytest.raises(BackendError) as caught:
        Sampler(SamplingParams(temperature=1.0), ()).choose(array(values))
    assert caught.value.code == "bad_logits"


def test_forbidden_tokens_are_never_chosen() -> None:
    """-inf stays out, also when penalised and hot."""
    sampler = Sampler(SamplingParams(temperature=100.0, seed=2, repeat_penalty=2.0), (0,))
    assert {sampler.choose(array([-math.inf, 1.0, 1.0])) for _ in range(100)} == {1, 2}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", "1"),
        ("top_p", 1.1),
        ("top_p", -0.1),
        ("top_k", -1),
        ("top_k", 2.5),
        ("top_k", True),
        ("min_p", 1.5),
        ("repeat_penalty", 0.0),
        ("repeat_penalty", math.inf),
        ("presence_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("logit_bias", ((1, 100.5),)),
        ("logit_bias", ((-1, 1.0),)),
        ("logit_bias", ((1, 1.0), (1, 2.0))),
        ("logit_bias", tuple((n, 0.0) for n in range(1025))),
        ("logprobs", 21),
        ("repeat_last_n", -1),
        ("repeat_last_n", 1 << 70),
        ("seed", 1 << 64),
        ("max_tokens", 0),
        ("stop", ("",)),
        ("stop", ("x" * 257,)),
        ("stop", ("x",) * 17),
        ("min_tokens", -1),
        ("stop_token_ids", (-1,)),
        ("stop_token_ids", (0,) * 257),
    ],
)
def test_bad_parameters_are_named(field: str, value: object) -> None:
    """A value out of range, or of another type, is a UsageError with the field's name."""
    with pytest.raises(UsageError) as caught:
        validate(replace(SamplingParams(), **{field: value}))  # type: ignore[arg-type]
    assert caught.value.param == field and field in caught.value.what


def test_a_least_length_above_the_largest_is_named() -> None:
    """No answer could have both."""
    with pytest.raises(UsageError) as caught:
        validate(SamplingParams(max_tokens=4, min_tokens=5))
    assert caught.value.param == "min_tokens"
    validate(SamplingParams(max_tokens=5, min_tokens=5))


def test_the_limits_themselves_are_fine() -> None:
    """What is just inside every range is accepted."""
    validate(SamplingParams())
    validate(
        SamplingParams(temperature=5.0, top_p=0.0, min_p=1.0, seed=-(1 << 63), max_tokens=1, stop=("x" * 256,) * 16)
    )
