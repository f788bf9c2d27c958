"""LoRA adapters as values, random and reproducible, and hypothesis strategies for them. Writes no file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgelora_converters.lora.adapter import LoraAdapter, LoraPair, Target
from edgelora_models.modules import EMBEDDING, HEAD, LINEAR_MODULES
from edgelora_models.shape import LlamaShape
from tests.support.bases import MIN_VOCAB

GQA = LlamaShape(layers=2, hidden=64, heads=4, kv_heads=2, head_dim=16, ffn=96, vocab=MIN_VOCAB, tied=False)
"""Grouped queries, q as wide as the stream."""
WIDE_HEADS = LlamaShape(layers=3, hidden=96, heads=6, kv_heads=3, head_dim=32, ffn=64, vocab=MIN_VOCAB, tied=True)
"""q twice as wide as the stream, an odd number of key/value heads, a tied head."""


def every_target(shape: LlamaShape) -> list[Target]:
    return [Target(layer, module) for layer in range(shape.layers) for module in LINEAR_MODULES]


def random_pair(rng: np.random.Generator, target: Target, shape: LlamaShape, *, rank: int, scale: float) -> LoraPair:
    """Normal factors of deviation 0.1."""
    a = rng.standard_normal((rank, target.module.in_features(shape))) * 0.1
    b = rng.standard_normal((target.module.out_features(shape), rank)) * 0.1
    return LoraPair(a.astype(np.float32), b.astype(np.float32), scale)


def random_adapter(
    shape: LlamaShape,
    *,
    seed: int = 0,
    ranks: tuple[int, ...] = (4,),
    scales: tuple[float, ...] = (2.0,),
    targets: Iterable[Target] | None = None,
) -> LoraAdapter:
    """Random factors on `targets` (all by default); ranks and scales are dealt out in turn."""
    rng = np.random.default_rng(seed)
    pairs = {
        target: random_pair(rng, target, shape, rank=ranks[n % len(ranks)], scale=scales[n % len(scales)])
        for n, target in enumerate(every_target(shape) if targets is None else targets)
    }
    return LoraAdapter(pairs, source_digest="0" * 64, base_model=None)


def dora_adapter(
    shape: LlamaShape,
    *,
    seed: int = 0,
    ranks: tuple[int, ...] = (4,),
    targets: Iterable[Target] | None = None,
) -> LoraAdapter:
    """`random_adapter` with magnitudes between 0.5 and 2; its row scales take a base."""
    rng = np.random.default_rng(seed)
    plain = random_adapter(shape, seed=seed, ranks=ranks, targets=targets)
    pairs = {
        target: replace(pair, magnitude=rng.uniform(0.5, 2.0, len(pair.b)).astype(np.float32))
        for target, pair in plain.pairs.items()
    }
    return replace(plain, pairs=pairs)


def full_adapter(shape: LlamaShape, *, seed: int = 0) -> LoraAdapter:
    """All that edgelora's own layout carries: modules with row scales, with biases, and plain; embedding and head.

    The row scales are made up: near 1, as a trained adapter's are.
    """
    rng = np.random.default_rng(seed)
    outer = [Target(None, EMBEDDING), Target(None, HEAD)]
    plain = random_adapter(shape, seed=seed, ranks=(3, 8), scales=(2.0, 0.5), targets=[*every_target(shape), *outer])
    pairs, row_scales = dict(plain.pairs), {}
    for n, (target, pair) in enumerate(plain.pairs.items()):
        rows = rng.uniform(0.7, 1.4, (2, len(pair.b))).astype(np.float32)
        if n % 3 == 0 and target.module != EMBEDDING:
            pairs[target], row_scales[target] = replace(pair, magnitude=rows[0]), rows[1]
        elif n % 3 == 1:
            pairs[target] = replace(pair, bias=rows[0] - 1)
    return replace(plain, pairs=pairs, row_scales=row_scales)


def delta(pair: LoraPair) -> NDArray[np.float64]:
    """scale * b @ a in float64, [out, in]: what every format must carry."""
    return pair.scale * (pair.b.astype(np.float64) @ pair.a.astype(np.float64))


@st.composite
def shapes(draw: st.DrawFn) -> LlamaShape:
    kv_heads = draw(st.integers(1, 3))
    return LlamaShape(
        layers=draw(st.integers(1, 12)),
        hidden=draw(st.sampled_from([8, 24, 40])),
        heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        head_dim=draw(st.sampled_from([2, 4, 10])),
        ffn=draw(st.sampled_from([8, 12, 56])),
        vocab=MIN_VOCAB,
        tied=draw(st.booleans()),
    )


@st.composite
def shaped_adapters(draw: st.DrawFn) -> tuple[LlamaShape, LoraAdapter]:
    """A base's shape, and an adapter on some of its modules with ranks and scales of their own."""
    shape = draw(shapes())
    targets = draw(st.lists(st.sampled_from(every_target(shape)), min_size=1, unique=True))
    ranks = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    # alpha / rank and alpha / sqrt(rank) of everyday settings, zero and negative ones included
    alphas = st.floats(-64, 64, allow_subnormal=False).filter(lambda alpha: alpha == 0 or abs(alpha) > 1e-6)
    scales = tuple(draw(st.lists(alphas, min_size=1, max_size=4)))
    return shape, random_adapter(shape, seed=draw(st.integers(0, 99)), ranks=ranks, scales=scales, targets=targets)
