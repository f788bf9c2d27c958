"""The adapters of a request: the one that `model` names, or the composition in `adapters`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from edgelora.core.errors import EdgeloraError
from edgelora.core.request import AdapterUse
from edgelora.runtime.interface import Runtime
from edgelora.server.generation.request_body import AdapterPart
from edgelora.server.http.validation import check_text, invalid
from edgelora.server.telemetry.request_record import note_adapters


class AdapterRequest(Protocol):
    """The fields of every generating body that select adapters."""

    @property
    def model(self) -> str: ...

    @property
    def adapters(self) -> Sequence[AdapterPart] | None: ...


def request_adapters(runtime: Runtime, body: AdapterRequest) -> tuple[AdapterUse, ...]:
    """Return the adapters of a request. With `adapters`, `model` must name the base or one of those adapters.

    Raises UsageError naming the field, NotFound with near names, AdapterIncompatible.
    """
    uses = _resolve(runtime, body)
    note_adapters(use.ref.name for use in uses)
    return uses


def _resolve(runtime: Runtime, body: AdapterRequest) -> tuple[AdapterUse, ...]:
    named = runtime.resolve(body.model)
    if body.adapters is None:
        return () if named is None else (AdapterUse(named),)
    uses = tuple(_use(runtime, part, f"adapters[{number}].name") for number, part in enumerate(body.adapters))
    if named is not None and all(use.ref.key != named.key for use in uses):
        raise invalid(
            "adapters", f"does not contain {body.model!r}, which 'model' names: add it, or name the base in 'model'"
        )
    return uses


def _use(runtime: Runtime, part: AdapterPart, param: str) -> AdapterUse:
    check_text(part.name, param)
    try:
        ref = runtime.resolve(part.name)
    except EdgeloraError as error:
        error.param = param
        raise
    if ref is None:
        raise invalid(param, "names the base, which is always included: name an adapter")
    return AdapterUse(ref, part.weight)
