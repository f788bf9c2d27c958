"""Adapters with weights, by name or path, as values for the converters: what `combine` and `merge` are given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgelora.core.errors import AdapterIncompatible
from edgelora.core.model_id import split_weight

if TYPE_CHECKING:
    from edgelora.store.adapters.manifest import Version
    from edgelora.store.adapters.store import Store
    from edgelora_converters.lora.adapter import LoraAdapter
    from edgelora_converters.lora.combine import Part
    from edgelora_converters.peft.read_options import ReadOptions
    from edgelora_models.shape import LlamaShape


def split_part(text: str) -> tuple[str, float]:
    """Split `ADAPTER`, `ADAPTER:WEIGHT` or `ADAPTER=WEIGHT`. Where no number is behind the colon, it belongs to a path.

    Raises UsageError for a weight out of range, or none behind a `=`.
    """
    head, colon, tail = text.rpartition(":")
    if colon and _is_number(tail):
        return split_weight(f"{head}={tail}")
    return (text, 1.0) if Path(text).exists() else split_weight(text)


def installed_version(store: Store, name: str) -> tuple[str, Version] | None:
    """Return the name and version an installed adapter's `name` or `name@2` means; None for a path.

    An installed name wins over a path of that name; `./NAME` is always the path. Raises NotFound where it is neither.
    """
    if name.partition("@")[0] not in store.names() and Path(name).exists():
        return None
    manifest, version = store.resolve(name)
    return manifest.name, version


def read_parts(
    store: Store, weighted: Sequence[tuple[str, float]], shape: LlamaShape, *, reading: ReadOptions
) -> list[Part]:
    """Read the adapters named in `weighted` as values for a base of `shape`, each with its weight; `reading` is what
    they may be read with. Raises NotFound, AdapterError where one is unsound or its shapes are not the base's,
    StorageError."""
    from edgelora_converters.lora.combine import Part

    return [Part(Path(name).name, _read(store, name, shape, reading), weight) for name, weight in weighted]


def check_one_base(versions: Sequence[tuple[str, Version]]) -> None:
    """Raise AdapterIncompatible(combine_bases) unless installed adapters were all added for one base."""
    for name, version in versions[1:]:
        first, other = versions[0]
        if version.base_fingerprint != other.base_fingerprint:
            message = (
                f"{first} was added for {other.base_name} and {name} for {version.base_name}, which is another base."
            )
            remedy = "Combine adapters of one base only."
            raise AdapterIncompatible("combine_bases", message, remedy, param=name)


def _read(store: Store, name: str, shape: LlamaShape, reading: ReadOptions) -> LoraAdapter:
    from edgelora_converters.convert.source import read_source

    installed = installed_version(store, name)
    if installed is None:
        return read_source(Path(name), shape, reading=reading)
    with store.source(*installed) as folder:
        return read_source(folder, shape, reading=reading)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
