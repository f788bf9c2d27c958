"""The adapters of a request: the one that `model` or another server's field names, or the composition in `adapters`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from edgelora.core.errors import EdgeloraError
from edgelora.core.request import AdapterRef, AdapterUse
from edgelora.runtime.interface import Runtime
from edgelora.server.generation.known_fields import ADAPTER_FIELDS
from edgelora.server.generation.request_body import AdapterPart
from edgelora.server.http.validation import check_text, invalid
from edgelora.server.telemetry.request_record import note_adapters


class AdapterRequest(Protocol):
    """The fields of every generating body that select adapters."""

    @property
    def model(self) -> str: ...

    @property
    def adapter_id(self) -> str | None: ...

    @property
    def adapter(self) -> str | None: ...

    @property
    def adapters(self) -> Sequence[AdapterPart] | None: ...


def request_adapters(runtime: Runtime, body: AdapterRequest) -> tuple[AdapterUse, ...]:
    """Return the adapters of a request. With `adapters`, `model` must name the base or one of those adapters.

    Raises UsageError naming the field, NotFound with near names, AdapterIncompatible.
    """
    uses = resolve_adapters(runtime, body)
    note_adapters(use.ref.name for use in uses)
    return uses


def resolve_adapters(runtime: Runtime, body: AdapterRequest) -> tuple[AdapterUse, ...]:
    """Return the same for a body that is not answered, such as one whose tokens are counted. Raises the same."""
    named, field = _named(runtime, body)
    if body.adapters is None:
        return () if named is None else (AdapterUse(named),)
    uses = tuple(_use(runtime, part, f"adapters[{number}].name") for number, part in enumerate(body.adapters))
    if named is not None and all(use.ref.key != named.key for use in uses):
        name = getattr(body, field)
        raise invalid("adapters", f"does not contain {name!r}, which {field!r} names: add it, or name the base there")
    return uses


def _named(runtime: Runtime, body: AdapterRequest) -> tuple[AdapterRef | None, str]:
    """Return the adapter that `model` or another server's field names, and the field; None for the base."""
    named, by = runtime.resolve(body.model), "model"
    for field in ADAPTER_FIELDS:
        name = getattr(body, field)
        if name is None:
            continue
        ref = _resolved(runtime, name, field)
        agrees = ref == named if ref is None or named is None else ref.key == named.key
        if not agrees and (named is not None or by != "model"):
            other = getattr(body, by)
            raise invalid(field, f"names {name!r}, but {by!r} names {other!r}: name one adapter, in 'model'")
        named, by = ref, field
    return named, by


def _resolved(runtime: Runtime, name: str, param: str) -> AdapterRef | None:
    check_text(name, param)
    try:
        return runtime.resolve(name)
    except EdgeloraError as error:
        error.param = param
        raise


def _use(runtime: Runtime, part: AdapterPart, param: str) -> AdapterUse:
    ref = _resolved(runtime, part.name, param)
    if ref is None:
        raise invalid(param, "names the base, which is always included: name an adapter")
    return AdapterUse(ref, part.weight)
