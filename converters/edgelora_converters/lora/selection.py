"""Modules that an adapter's configuration selects and that have no tensors. Owns whether that can be, and its note.

PEFT and mlx-lm leave such modules as the base has them. An adapter that ends in the middle of a base is something else:
it was made for one with fewer layers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from edgelora_converters.lora.adapter import Target
from edgelora_models.errors import AdapterIncompatible


def without_tensors(chosen: Sequence[Target], present: Collection[Target]) -> tuple[Target, ...]:
    """Return the chosen modules that are not present.

    Raises AdapterIncompatible where those are just the modules of the last layers: the adapter has fewer layers.
    """
    without = tuple(target for target in chosen if target not in present)
    deepest = max((target.layer for target in present if target.layer is not None), default=None)
    layers = [target.layer for target in without if target.layer is not None]
    if deepest is not None and layers and min(layers) > deepest:
        message = f"The adapter ends with layer {deepest}, and its configuration selects {without[0].hf_path} as well."
        remedy = "It was made for a base with fewer layers: choose that base (--base), or its file is incomplete."
        raise AdapterIncompatible("adapter_modules", message, remedy, param=without[0].hf_path)
    return without


def note(without: Sequence[Target]) -> str:
    """Return a note that counts selected modules without tensors; empty if there are none."""
    if not without:
        return ""
    if len(without) == 1:
        return f"1 selected module has no tensors and stays as in the base ({without[0].hf_path})"
    return f"{len(without)} selected modules have no tensors and stay as in the base ({without[0].hf_path} and others)"
