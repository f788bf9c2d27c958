"""The subjects of a verification: an installed adapter, a converted file, or an adapter that is not converted yet.

Owns the finding of the source that each is held against.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgelora.core.errors import EdgeloraError, UsageError
from edgelora.core.files import workspace

if TYPE_CHECKING:
    from edgelora.store.adapters.manifest import AdapterManifest, Version
    from edgelora.store.library import Library


@dataclass(frozen=True, slots=True)
class Subject:
    source: Path
    """Path of the adapter as it was trained: a folder, or a third-party GGUF file."""
    installed: tuple[AdapterManifest, Version] | None = None
    """The installed adapter, if it was named."""
    converted: Path | None = None
    """The converted file or folder, if it was named."""


@contextmanager
def open_subject(library: Library, named: str, source: Path | None) -> Iterator[Subject]:
    """Return what `named` means: an installed adapter's name, or a path. `source` is what a converted file was made of;
    without it that is the installed adapter which the file names. Raises NotFound, UsageError, AdapterError.
    """
    path = Path(named)
    if named.partition("@")[0] in library.store.names() or not path.exists():
        if source is not None:
            raise UsageError("source_of_installed", f"{named} is installed: its source is kept.", "Leave out --source.")
        manifest, version = library.store.resolve(named)
        with library.store.source(manifest.name, version) as folder:
            yield Subject(folder, installed=(manifest, version))
    elif source is not None:
        yield Subject(source, converted=path)
    elif (made_of := _said_source(path)) is not None:
        manifest, version = _with_digest(library, path, made_of)
        with library.store.source(manifest.name, version) as folder:
            yield Subject(folder, converted=path)
    else:
        yield from _unconverted(library, path)


def _said_source(path: Path) -> str | None:
    """Return the digest of what a converted file says it was made of; None where it is no file of ours."""
    from edgelora_converters.convert.provenance import read_provenance

    try:
        return read_provenance(path).get("source_digest")
    except EdgeloraError:
        return None  # whoever reads it as an adapter says what is wrong


def _with_digest(library: Library, path: Path, digest: str) -> tuple[AdapterManifest, Version]:
    for manifest in library.store.list():
        for version in manifest.versions:
            if version.digest == digest:
                return manifest, version
    message = (
        f"{path} was made of an adapter that is not installed ({digest[:12]}), so there is nothing to hold it against."
    )
    raise UsageError("no_source", message, "Say where that is: --source DIR.")


def _unconverted(library: Library, path: Path) -> Iterator[Subject]:
    from edgelora.store.adapters.staging import stage
    from edgelora_converters.convert.source import adapter_kind

    if path.is_dir() or adapter_kind(path) != "peft":
        yield Subject(path)
        return
    with workspace(library.store.root / "tmp") as work:
        yield Subject(stage(path, work).folder)
