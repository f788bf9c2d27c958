"""The options of a training, kept with its checkpoints, so that it continues with the same."""

from __future__ import annotations

from typing import Annotated

import msgspec

Count = Annotated[int, msgspec.Meta(ge=1)]


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The options of a training. The scale of the adapter is `alpha / rank`, as PEFT has it."""

    rank: Count = 16
    alpha: Annotated[float, msgspec.Meta(gt=0)] = 32.0
    layers: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Number of layers adapted, counted from the end, all seven linear modules of each; 0: all."""
    learning_rate: Annotated[float, msgspec.Meta(gt=0)] = 2e-4
    """Adam's, the same from the first step to the last."""
    iterations: Count = 1000
    batch_size: Count = 4
    dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    max_length: Annotated[int, msgspec.Meta(ge=2)] = 2048
    """Tokens of an example; what is longer is cut."""
    seed: int = 0
    """The seed of the first factors, the order of the examples, the split, and dropout."""
    validation: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.1
    """Share of the examples kept for validation, where there is no file of them."""
    learn_prompts: bool = False
    """Whether the loss covers the whole conversation; else its last answer alone."""
    grad_checkpoint: bool = False
    """Whether activations are computed twice instead of kept: less memory, more time."""
    report_every: Count = 10
    validate_every: Count = 100
    save_every: Count = 100
    """Iterations between checkpoints."""

    @property
    def scale(self) -> float:
        return self.alpha / self.rank
