"""Whether an adapter makes sense for a base: its architecture, the checkpoint it was trained on, and its effect.

Shapes alone do not tell: Mistral-7B's linear modules have the shapes of Llama-3.1-8B's. Pure.
"""

from __future__ import annotations

from edgelora_converters.lora.adapter import LoraAdapter, LoraPair
from edgelora_models.checkpoints import checkpoint, foreign_class, foreign_family
from edgelora_models.errors import AdapterIncompatible


def other_architecture(base_model: str | None, base_class: str | None) -> str | None:
    """Return what an adapter was trained on if that, by its name or by transformers' class, is no Llama."""
    if (declared := foreign_class(base_class)) is not None:
        return declared
    family = foreign_family(base_model)
    return None if family is None else f"{base_model}, a {family.capitalize()} model"


def check_architecture(base_model: str | None, base_class: str | None) -> None:
    """Raise AdapterIncompatible(other_architecture) if an adapter's base, by its name or by transformers' class, is no
    Llama."""
    if (model := other_architecture(base_model, base_class)) is None:
        return
    raise AdapterIncompatible(
        "other_architecture",
        f"The adapter was trained on {model}; the base is a Llama, although the shapes may fit.",
        "Choose an adapter of this base. If the adapter's configuration is wrong, add it with edgelora add --force.",
        param="base_model_name_or_path",
    )


def other_checkpoint(adapter: LoraAdapter, base: str | None) -> str | None:
    """Return the name of the model that the adapter was trained on, if it is another checkpoint than `base`.

    None if they are the same, or if one of the two names tells nothing.
    """
    trained_on, own = checkpoint(adapter.base_model), checkpoint(base)
    return adapter.base_model if trained_on and own and trained_on != own else None


def changes_nothing(adapter: LoraAdapter) -> bool:
    """Return whether the adapter certainly leaves every output of the base as it is.

    It does if every pair has a scale of 0 or a factor of zeros, without a bias. DoRA's magnitudes may change the base
    whatever the factors are, and so may replaced rows. Reads the values up to the first that is not zero.
    """
    return not adapter.token_rows and all(_is_zero(pair) for pair in adapter.pairs.values())


def _is_zero(pair: LoraPair) -> bool:
    if pair.magnitude is not None:
        return False
    if pair.scale == 0:
        return True
    ranks = pair.a.any(axis=1) & pair.b.any(axis=0)  # those of which neither half is zero
    return not ranks.any() and (pair.bias is None or not pair.bias.any())
