"""EdgeLoRA's published workload as values: who asks for what, when. Pure and seeded; knows no server.

The recipe is that of the released client of EdgeLoRA (MobiSys 2025): Gamma gaps between arrivals, a power law over the
adapters, uniform lengths. Its prompts repeat one word; here they are random tokens, so that nobody gains by having
computed the same beginning before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CV = 1.5
"""Deviation of the gaps between arrivals by their mean."""
INPUT_TOKENS = (8, 128)
OUTPUT_TOKENS = (8, 256)
"""Both inclusive."""
SLO_SECONDS = 6.0
"""The first token is wanted within this time of the intended arrival."""


@dataclass(frozen=True, slots=True)
class Job:
    """One request, to be sent `at` seconds after the start whatever has become of the earlier ones."""

    at: float
    adapter: int | None
    """Which adapter, from 0; None is the base alone."""
    prompt: tuple[int, ...]
    """Token ids."""
    output: int
    """Tokens of the answer."""


@dataclass(frozen=True, slots=True)
class Workload:
    """`rate`: requests a second on average. `alpha`: adapter floor(U^(1/alpha) * adapters), so 1 is uniform, and the
    smaller the more falls on the first few."""

    adapters: int
    alpha: float
    rate: float
    inputs: tuple[int, int] = INPUT_TOKENS
    outputs: tuple[int, int] = OUTPUT_TOKENS
    cv: float = CV

    def jobs(self, *, seconds: float, tokenizer: Sequence[int], seed: int) -> list[Job]:
        """Everything that arrives within `seconds`, by arrival. Prompts are drawn from `tokenizer`.

        Arrivals, adapters, lengths and tokens are streams of their own: another alpha changes only the adapters, and
        another rate stretches the same arrivals.
        """
        gaps, choice, lengths, text = (np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(4))
        jobs: list[Job] = []
        at = self._gap(gaps)
        while at < seconds:
            size = int(lengths.integers(*self.inputs, endpoint=True))
            output = int(lengths.integers(*self.outputs, endpoint=True))
            prompt = tuple(tokenizer[place] for place in text.integers(len(tokenizer), size=size))
            jobs.append(Job(at, self._adapter(choice), prompt, output))
            at += self._gap(gaps)
        return jobs

    def _gap(self, rng: np.random.Generator) -> float:
        return float(rng.gamma(1 / self.cv**2, self.cv**2)) / self.rate

    def _adapter(self, rng: np.random.Generator) -> int:
        # The largest U below 1 may round up to 1.0 in the power.
        return min(self.adapters - 1, int(rng.random() ** (1 / self.alpha) * self.adapters))
