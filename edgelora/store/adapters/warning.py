"""What an installed adapter is suspected of: it is run all the same, and its owner is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from edgelora.core.errors import AdapterError

if TYPE_CHECKING:
    from edgelora.store.bases.record import BaseRecord
    from edgelora_converters.lora.adapter import LoraAdapter


class AdapterWarning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A reason to doubt that an adapter does what it was trained for."""

    code: str
    """`no_effect`, `other_architecture` or `other_checkpoint`."""
    message: str


@dataclass(frozen=True, slots=True)
class Checks:
    """What is refused of an adapter, beyond what cannot be run at all."""

    architecture: bool = True
    """Refuse an adapter that says that it was trained on another architecture. False is `--force`."""
    strict: bool = False
    """Refuse an adapter with a warning."""


USUAL_CHECKS = Checks()


def warnings_of(adapter: LoraAdapter, base: BaseRecord) -> tuple[AdapterWarning, ...]:
    """Return the warnings about an adapter that is added for `base`."""
    from edgelora_converters.lora.suitability import changes_nothing, other_architecture, other_checkpoint

    warnings: list[AdapterWarning] = []
    if changes_nothing(adapter):
        message = (
            "The adapter changes nothing: all its deltas are zero (lora_B or lora_alpha is 0). "
            "It may have been saved before it was trained, or exported with a wrong alpha."
        )
        warnings.append(AdapterWarning("no_effect", message))
    if (foreign := other_architecture(adapter.base_model, adapter.metadata.get("base_class"))) is not None:
        message = f"The adapter was trained on {foreign}, and installed with --force; this base is a Llama."
        warnings.append(AdapterWarning("other_architecture", message))
    elif (trained_on := other_checkpoint(adapter, base.checkpoint)) is not None:
        message = f"The adapter was trained on {trained_on}; this base is {base.checkpoint}. Answers may be poor."
        warnings.append(AdapterWarning("other_checkpoint", message))
    return tuple(warnings)


def refuse(warnings: tuple[AdapterWarning, ...]) -> None:
    """Raise AdapterError with the first warning's code, if there is one: what `--strict` does."""
    if warnings:
        raise AdapterError(warnings[0].code, warnings[0].message, "Leave out --strict to install it all the same.")
