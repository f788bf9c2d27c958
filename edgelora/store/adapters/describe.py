"""Describing an adapter for its manifest, and naming adapter and base in errors about incompatible shapes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgelora.core.errors import AdapterIncompatible
from edgelora.store.adapters.manifest import Version
from edgelora.store.adapters.warning import warnings_of

if TYPE_CHECKING:
    from edgelora.store.adapters.staging import Staged
    from edgelora.store.bases.record import BaseRecord
    from edgelora_converters.lora.adapter import LoraAdapter


@contextmanager
def naming(name: str, made_for: str | None, base: BaseRecord) -> Iterator[None]:
    """Say which adapter and which base do not fit; the converter knows shapes only."""
    try:
        yield
    except AdapterIncompatible as error:
        origin = f" (made for {made_for})" if made_for else ""
        message = f"The adapter {name}{origin} does not fit the base {base.name}: {error.what}"
        raise AdapterIncompatible(error.code, message, error.remedy, param=error.param) from error


def describe(adapter: LoraAdapter, staged: Staged, base: BaseRecord, *, origin: str, created: float) -> Version:
    """Describe an adapter as version number 1, until it is committed. `created`: Unix seconds."""
    from edgelora_converters.lora.completion import needs_base

    scales = [pair.scale for pair in adapter.pairs.values()]
    return Version(
        number=1,
        digest=adapter.source_digest,
        created=created,
        files=staged.files,
        base_model=adapter.base_model,
        base_name=base.name,
        base_fingerprint=base.identity.fingerprint.digest,
        rank=adapter.max_rank,
        alpha=adapter.metadata.get("alpha", ""),
        scales=(min(scales), max(scales)),
        targets=tuple(sorted({target.module.short for target in adapter.pairs})),
        use_rslora=adapter.metadata.get("use_rslora", "").lower() == "true",
        parameters=adapter.parameters,
        invocation=adapter.invocation,
        needs_base=needs_base(adapter),
        warnings=warnings_of(adapter, base),
        treatment=adapter.metadata.get("treatment", ""),
        origin=origin,
    )
