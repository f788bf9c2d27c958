"""Several adapters in one request, by name and weight: what the CLI and Python write, as values. Owns no lookup."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import isfinite

from edgelora.core import MAX_WEIGHT, AdapterRef, AdapterUse
from edgelora.errors import UsageError


def split_weight(text: str) -> tuple[str, float]:
    """`NAME` or `NAME=WEIGHT`: no name has a `=`, while `:` and `@` belong to model ids. Raises UsageError."""
    name, sign, digits = text.rpartition("=")
    if not sign:
        return text, 1.0
    try:
        weight = float(digits)
    except ValueError:
        weight = float("nan")
    if not isfinite(weight) or abs(weight) > MAX_WEIGHT or not name:
        what = f"{digits!r} in {text!r} is no weight from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}."
        raise UsageError("bad_weight", what, "Write NAME=0.7.", param="adapter")
    return name, weight


def show_weight(use: AdapterUse) -> str:
    """As `split_weight` reads it."""
    return use.ref.name if use.weight == 1.0 else f"{use.ref.name}={use.weight:g}"


def compose(resolve: Callable[[str], AdapterRef | None], wanted: Iterable[tuple[str, float]]) -> tuple[AdapterUse, ...]:
    """The adapters that model ids name, with their weights. An id of the base alone adds nothing.

    Raises what `resolve` raises, and UsageError for a weight of the base.
    """
    uses: list[AdapterUse] = []
    for name, weight in wanted:
        ref = resolve(name)
        if ref is not None:
            uses.append(AdapterUse(ref, weight))
        elif weight != 1.0:
            what = f"{name} is the base, which has no weight."
            raise UsageError("base_weight", what, "Give weights to adapters.", param="adapter")
    return tuple(uses)
