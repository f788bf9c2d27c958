"""What is installed: the bases and adapters on disk, nothing loaded. Owns what crosses their stores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgelora.core import Progress

if TYPE_CHECKING:
    from edgelora.adapters.manifest import Version
    from edgelora.adapters.store import Store
    from edgelora.bases.record import BaseRecord
    from edgelora.bases.registry import Bases
    from edgelora.config import Settings
    from edgelora.prefixes.store import PrefixStore


@dataclass(frozen=True, slots=True)
class Library:
    """What is installed. The built-in base and its adapters are there after `open_library`."""

    settings: Settings
    bases: Bases
    store: Store

    def prefixes(self) -> PrefixStore:
        """KV on disk, of all bases."""
        from edgelora.prefixes.store import PrefixStore

        return PrefixStore(self.settings.directories.cache / "prefixes", budget_bytes=self.settings.prefix_disk_bytes)

    def remove_adapter(self, spec: str) -> tuple[Version, ...]:
        """`Store.remove`, and the prefixes that no version left could use any more."""
        gone = self.store.remove(spec)
        left = {version.digest for manifest in self.store.list() for version in manifest.versions}
        self.prefixes().drop(versions={version.digest for version in gone} - left)
        return gone

    def remove_base(self, name: str) -> BaseRecord:
        """`Bases.remove`, and the base's prefixes, unless another installed base has the same file."""
        from edgelora.prefixes.content import Contents

        record = self.bases.remove(name)
        prefixes = self.prefixes()
        contents = Contents(prefixes.layout.bases)
        others = [other.path for other in self.bases.list()]
        digest = None if record.path in others else contents.forget(record.path)
        if digest is not None and digest not in {contents.known(other) for other in others}:
            prefixes.drop(bases={digest})
        return record


def open_library(settings: Settings, *, progress: Progress | None = None) -> Library:
    """The installed bases and adapters; installs the built-in ones on first use. Raises StorageError."""
    from edgelora.adapters.store import Store
    from edgelora.bases.builtin import ensure_builtin
    from edgelora.bases.registry import Bases

    bases, store = Bases(settings.directories), Store(settings.directories.data)
    ensure_builtin(bases, store, progress)
    return Library(settings, bases, store)
