"""Several adapters as one: exact side by side, cut to a rank with the error told, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora_converters.lora.adapter import LoraAdapter, LoraPair
from edgelora_converters.lora.combine import Part, combine
from edgelora_models.errors import AdapterIncompatible, AdapterUnsupported, EdgeloraError, UsageError
from tests.support.lora import GQA, delta, every_target, random_adapter
from tests.support.oracles import TOKENS, deltas, distance, tiny_oracle


def refused(error: type[EdgeloraError], *parts: Part, rank: int | None = None) -> str:
    with pytest.raises(error) as caught:
        combine(parts, rank=rank)
    return caught.value.code


@settings(deadline=None, max_examples=25)
@given(weights=st.lists(st.sampled_from([0.7, 0.3, -1.0, 2.0, 1.0]), min_size=1, max_size=3), seed=st.integers(0, 50))
def test_the_sum_of_deltas(weights: list[float], seed: int) -> None:
    """Every module's delta is the weighted sum of the parts' deltas, to the rounding of one float32 product."""
    targets = every_target(GQA)
    parts = [
        Part(f"p{n}", random_adapter(GQA, seed=seed + n, ranks=(2, 5), scales=(2.0, 0.7), targets=targets[n:9]), weight)
        for n, weight in enumerate(weights)
    ]
    combined = combine(parts).adapter
    assert combined.pairs.keys() == {target for part in parts for target in part.adapter.pairs}
    for target, pair in combined.pairs.items():
        wanted = sum(part.weight * delta(p) for part in parts if (p := part.adapter.pairs.get(target)) is not None)
        np.testing.assert_allclose(delta(pair), wanted, rtol=0, atol=1e-7 * float(np.abs(wanted).max()))


def test_equal_shares_keep_the_factors() -> None:
    """One weight and scale for all: every bit of the factors is the parts'."""
    a, b = (random_adapter(GQA, seed=n, scales=(2.0,)) for n in (1, 2))
    combined = combine([Part("a", a, 0.5), Part("b", b, 0.5)]).adapter
    for target, pair in combined.pairs.items():
        assert pair.scale == 1.0
        np.testing.assert_array_equal(pair.a, np.vstack([a.pairs[target].a, b.pairs[target].a]))
        np.testing.assert_array_equal(pair.b, np.hstack([a.pairs[target].b, b.pairs[target].b]))


def test_it_answers_as_both_do() -> None:
    """The oracle with the combination gives the logits of the oracle with both parts by weight."""
    a, b = random_adapter(GQA, seed=1, scales=(2.0, 0.5)), random_adapter(GQA, seed=2, ranks=(3,))
    combined = combine([Part("a", a, 0.7), Part("b", b, -0.3)]).adapter
    oracle = tiny_oracle(GQA, seed=1)
    from edgelora_converters.oracle.llama import Part as Acting

    wanted = oracle.logits(TOKENS, [Acting(deltas(a), 0.7), Acting(deltas(b), -0.3)])
    assert distance(oracle.logits(TOKENS, deltas(combined)), wanted) < 1e-6
    assert distance(oracle.logits(TOKENS), wanted) > 0.01


def test_a_lower_rank_tells_its_error() -> None:
    """The error of each module and of all together is the distance that is really there."""
    a, b = random_adapter(GQA, seed=1), random_adapter(GQA, seed=2)
    whole = combine([Part("a", a, 0.7), Part("b", b, 0.3)]).adapter
    cut = combine([Part("a", a, 0.7), Part("b", b, 0.3)], rank=5)
    assert {pair.rank for pair in cut.adapter.pairs.values()} == {5}
    squares = {t: float(np.sum((delta(pair) - delta(cut.adapter.pairs[t])) ** 2)) for t, pair in whole.pairs.items()}
    norms = {t: float(np.sum(delta(pair) ** 2)) for t, pair in whole.pairs.items()}
    assert cut.error == pytest.approx((sum(squares.values()) / sum(norms.values())) ** 0.5, rel=1e-5)
    told = {loss.path: loss.error for loss in cut.losses}
    assert told == {t.hf_path: pytest.approx((squares[t] / norms[t]) ** 0.5, rel=1e-5) for t in whole.pairs}


def test_an_exact_combination_has_no_error() -> None:
    """Without a rank, or with one that is high enough, nothing is lost."""
    parts = [Part("a", random_adapter(GQA), 1.0), Part("b", random_adapter(GQA, seed=1), 1.0)]
    for rank in (None, 8):
        assert (combine(parts, rank=rank).error, combine(parts, rank=rank).losses) == (0.0, ())


def test_a_weight_of_zero_is_no_part() -> None:
    """What does not act takes no rank; nothing that acts is a mistake."""
    a, b = (Part(name, random_adapter(GQA, seed=n), n) for n, name in enumerate(("a", "b")))
    assert combine([a, b]).adapter.max_rank == b.adapter.max_rank
    assert refused(UsageError, a) == "combine_nothing"
    assert refused(UsageError, b, rank=0) == "combine_nothing"


def test_the_digest_knows_its_parts() -> None:
    """The same parts give the same digest; a weight, an order or a rank gives another."""
    a, b = Part("a", random_adapter(GQA), 0.7), Part("b", replace(random_adapter(GQA), source_digest="1" * 64), 0.3)
    same = combine([a, b]).adapter.source_digest
    assert combine([a, b]).adapter.source_digest == same
    others = [combine([b, a]), combine([a, replace(b, weight=0.4)]), combine([a, b], rank=2)]
    assert len({same, *(other.adapter.source_digest for other in others)}) == 4


def dora(adapter: LoraAdapter) -> LoraAdapter:
    pairs = {t: replace(pair, magnitude=np.ones(len(pair.b), np.float32)) for t, pair in adapter.pairs.items()}
    return replace(adapter, pairs=pairs)


def test_refusals() -> None:
    """DoRA is no sum, aLoRAs must begin at one place, and ranks add up to what an adapter may have."""
    plain = Part("plain", random_adapter(GQA), 1.0)
    late = replace(plain, name="late", adapter=replace(plain.adapter, invocation=(1, 2)))
    assert refused(AdapterUnsupported, plain, Part("dora", dora(random_adapter(GQA)), 1.0)) == "combine_dora"
    assert refused(AdapterIncompatible, plain, late) == "combine_invocation"
    assert combine([late, late]).adapter.invocation == (1, 2)
    target = every_target(GQA)[0]
    wide = random_adapter(GQA, ranks=(600,), targets=[target])
    assert refused(AdapterUnsupported, Part("a", wide, 1.0), Part("b", wide, 1.0)) == "combine_rank"
    assert combine([Part("a", wide, 1.0), Part("b", wide, 1.0)], rank=8).adapter.max_rank == 8


def test_biases_add_up() -> None:
    """lora_B's biases are weighted and summed as the deltas are."""
    target = every_target(GQA)[0]
    plain = random_adapter(GQA, targets=[target]).pairs[target]
    ones = np.ones(len(plain.b), np.float32)

    def part(name: str, scale: float, bias: float, weight: float) -> Part:
        pair = LoraPair(plain.a, plain.b, scale, bias=ones * np.float32(bias))
        return Part(name, LoraAdapter({target: pair}, "0" * 64, None), weight)

    summed = combine([part("a", 2.0, 3.0, 0.5), part("b", 4.0, -1.0, 0.25)]).adapter.pairs[target]
    mixed = combine([part("a", 2.0, 3.0, 0.5), part("b", 4.0, -1.0, 2.0)]).adapter.pairs[target]
    assert summed.bias is not None and mixed.bias is not None
    np.testing.assert_array_equal(summed.bias * summed.scale, ones * 2)
    np.testing.assert_array_equal(mixed.bias * mixed.scale, ones * -5)
