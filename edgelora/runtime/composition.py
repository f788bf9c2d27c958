"""Several adapters in one request, by name and weight, as given in the CLI and in Python. Owns no lookup."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from edgelora.core.errors import UsageError
from edgelora.core.request import AdapterRef, AdapterUse


def compose(resolve: Callable[[str], AdapterRef | None], wanted: Iterable[tuple[str, float]]) -> tuple[AdapterUse, ...]:
    """Return the adapters that model ids name, with their weights. An id of the base alone adds nothing.

    Raises what `resolve` raises, and UsageError for a weight of the base.
    """
    uses: list[AdapterUse] = []
    for name, weight in wanted:
        ref = resolve(name)
        if ref is not None:
            uses.append(AdapterUse(ref, weight))
        elif weight != 1.0:
            message = f"{name} is the base, which has no weight."
            raise UsageError("base_weight", message, "Give weights to adapters.", param="adapter")
    return tuple(uses)
