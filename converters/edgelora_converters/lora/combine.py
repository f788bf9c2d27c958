"""Several adapters, each with a weight, as one. Owns the arithmetic; reading and writing adapters is elsewhere.

w1 s1 B1 A1 + w2 s2 B2 A2 = [w1 s1 B1, w2 s2 B2] [A1; A2]: side by side the factors are the sum, without loss; the
ranks add up. A lower rank, where one is asked for, is the best approximation there is (see `svd`), its error reported.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from edgelora_converters.lora.adapter import MAX_RANK, LoraAdapter, LoraPair, Target
from edgelora_converters.lora.fit import folded_b
from edgelora_converters.lora.svd import Reduced, reduce_rank
from edgelora_models.errors import AdapterIncompatible, AdapterUnsupported, UsageError


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """An adapter with its weight. `name` is used in errors and in the result's metadata."""

    name: str
    adapter: LoraAdapter
    weight: float


@dataclass(frozen=True, slots=True)
class ModuleLoss:
    """The loss of a module that was reduced to a lower rank, relative to its whole delta (Frobenius)."""

    path: str
    rank: int
    """Before."""
    error: float


@dataclass(frozen=True, slots=True, eq=False)
class Combination:
    adapter: LoraAdapter
    losses: tuple[ModuleLoss, ...]
    """Losses of the modules that were reduced; empty if the combination is exact."""
    error: float
    """Relative error of all modules together (Frobenius); 0.0 if the combination is exact."""


def combine(parts: Sequence[Part], *, rank: int | None = None) -> Combination:
    """Return the weighted sum of `parts` as one adapter, of at most `rank` where that is given.

    Where all parts have one weight and scale the factors stay as they are; otherwise weight and scale go into B, in
    float64, rounded once. Raises UsageError for no parts, a rank below 1 or a sum that is zero everywhere;
    AdapterUnsupported(combine_dora) for DoRA, whose change is not a sum, (combine_tokens) for trained tokens, and
    (combine_rank) where the ranks add up to
    more than PEFT's reader takes; AdapterIncompatible(combine_invocation) for aLoRAs of different invocations.
    """
    acting = [part for part in parts if part.weight]
    if not acting or (rank is not None and rank < 1):
        message = "There is nothing to combine." if not acting else f"A rank of {rank} is none."
        raise UsageError(
            "combine_nothing", message, "Name adapters with weights that are not 0, and a rank of 1 or more."
        )
    for part in acting:
        _check_plain(part)
    invocation = _invocation(acting)
    summed = {target: _sum(target, acting) for target in _targets(acting)}
    reduced = {} if rank is None else {target: reduce_rank(pair, rank) for target, pair in summed.items()}
    pairs = {target: reduced[target].pair if reduced else pair for target, pair in summed.items()}
    _check_ranks(pairs)
    adapter = LoraAdapter(
        pairs=pairs,
        source_digest=_digest(acting, rank),
        base_model=acting[0].adapter.base_model,
        metadata={"combination": " ".join(f"{part.name}:{part.weight:g}" for part in acting)},
        invocation=invocation,
    )
    return Combination(adapter, *_losses(summed, reduced))


def _check_plain(part: Part) -> None:
    if part.adapter.token_rows:
        message = f"{part.name} replaces rows of the embedding (trained tokens), which cannot be weighed."
        raise AdapterUnsupported("combine_tokens", message, "Merge it into the base instead.", param=part.name)
    for target, pair in part.adapter.pairs.items():
        if pair.magnitude is not None:
            message = f"{part.name} uses DoRA ({target.hf_path}): its change is not a sum of factors."
            remedy = (
                "Let both act in one request instead (--adapter a=0.7 --adapter b=0.3), or merge them into the base."
            )
            raise AdapterUnsupported("combine_dora", message, remedy, param=part.name)


def _invocation(parts: Sequence[Part]) -> tuple[int, ...]:
    first = parts[0]
    for part in parts[1:]:
        if part.adapter.invocation != first.adapter.invocation:
            message = f"{first.name} and {part.name} act from different places in a prompt (aLoRA)."
            remedy = "Let both act in one request instead: each then acts from its own."
            raise AdapterIncompatible("combine_invocation", message, remedy, param=part.name)
    return first.adapter.invocation


def _targets(parts: Iterable[Part]) -> list[Target]:
    """Return every module of any part, in the order in which they first appear."""
    return list(dict.fromkeys(target for part in parts for target in part.adapter.pairs))


def _sum(target: Target, parts: Sequence[Part]) -> LoraPair:
    weighted = [_weighted(pair, part.weight) for part in parts if (pair := part.adapter.pairs.get(target)) is not None]
    if len({pair.scale for pair in weighted}) > 1:
        weighted = [_folded(target, pair) for pair in weighted]
    biases = [pair.bias.astype(np.float64) for pair in weighted if pair.bias is not None]
    return LoraPair(
        a=np.concatenate([pair.a for pair in weighted]),
        b=np.concatenate([pair.b for pair in weighted], axis=1),
        scale=weighted[0].scale,
        bias=np.asarray(sum(biases), np.float32) if biases else None,
    )


def _weighted(pair: LoraPair, weight: float) -> LoraPair:
    return LoraPair(pair.a, pair.b, pair.scale * weight, bias=pair.bias)


def _folded(target: Target, pair: LoraPair) -> LoraPair:
    """Return the same delta with its scale folded into B; lora_B's bias is scaled with it."""
    bias = None if pair.bias is None else (pair.bias.astype(np.float64) * pair.scale).astype(np.float32)
    return LoraPair(pair.a, folded_b(target, pair), 1.0, bias=bias)


def _check_ranks(pairs: dict[Target, LoraPair]) -> None:
    target, pair = max(pairs.items(), key=lambda item: item[1].rank)
    if pair.rank > MAX_RANK:
        message = f"The ranks of {target.hf_path} add up to {pair.rank}; {MAX_RANK} is the most an adapter may have."
        raise AdapterUnsupported("combine_rank", message, "Combine fewer, or to a lower rank (--rank).", param="rank")


def _digest(parts: Sequence[Part], rank: int | None) -> str:
    """sha256 hex over what was combined: each source's digest with its weight, and the rank."""
    lines = [f"{part.adapter.source_digest} {part.weight!r}\n" for part in parts]
    return hashlib.sha256("".join([*lines, f"rank {rank}\n"]).encode()).hexdigest()


def _losses(summed: dict[Target, LoraPair], reduced: dict[Target, Reduced]) -> tuple[tuple[ModuleLoss, ...], float]:
    losses = tuple(ModuleLoss(t.hf_path, summed[t].rank, r.error) for t, r in reduced.items() if r.lost)
    norm, lost = (math.hypot(*(getattr(r, name) for r in reduced.values())) for name in ("norm", "lost"))
    return losses, lost / norm if norm else 0.0
