"""The library of installed bases and adapters, with the operations that concern several of its stores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from edgelora.core.errors import UsageError
from edgelora.core.progress import Progress

if TYPE_CHECKING:
    from edgelora.core.config import Settings
    from edgelora.store.adapters.manifest import Version
    from edgelora.store.adapters.quarantine import Quarantine
    from edgelora.store.adapters.store import Store
    from edgelora.store.bases.record import BaseRecord
    from edgelora.store.bases.registry import Bases
    from edgelora.store.prefixes.store import PrefixStore
    from edgelora_models.fingerprint import BaseFingerprint


@dataclass(frozen=True, slots=True)
class KnownBase:
    """A base that was named: an installed one, or a model of the user's."""

    path: Path
    fingerprint: BaseFingerprint
    record: BaseRecord | None

    def installed(self) -> BaseRecord:
        """Return the installed base's record. Raises UsageError for a path that was never added."""
        if self.record is None:
            message = f"{self.path} is not an installed base."
            raise UsageError(
                "base_not_installed", message, f"Add it first: edgelora base add {self.path}", param="base"
            )
        return self.record


@dataclass(frozen=True, slots=True)
class Library:
    """The installed bases and adapters. The built-in ones are there after `open_library`."""

    settings: Settings
    bases: Bases
    store: Store

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the library below the settings' folders, without installing anything."""
        from edgelora.store.adapters.store import Store
        from edgelora.store.bases.registry import Bases

        bases = Bases(settings.directories)
        return cls(settings, bases, Store(settings.directories.data, means_base=bases.means_base))

    def prefixes(self) -> PrefixStore:
        """KV on disk, of all bases."""
        from edgelora.store.prefixes.store import PrefixStore

        return PrefixStore(self.settings.directories.cache / "prefixes", budget_bytes=self.settings.prefix_disk_bytes)

    def quarantine(self) -> Quarantine:
        """Return the adapters that crashed the engine and are not run."""
        from edgelora.store.adapters.quarantine import Quarantine

        return Quarantine(self.settings.directories.data / "quarantine")

    def find_base(self, name: str | None) -> KnownBase:
        """Return the chosen base (None), an installed one, or that of a GGUF file, an MLX or a Hugging Face folder.

        Raises NotFound with near names, BaseError where its file is gone, changed, or no Llama.
        """
        from edgelora.store.bases.registry import identify

        if name is not None and name not in self.bases.names() and Path(name).exists():
            path = Path(name)
            return KnownBase(path, identify(path).fingerprint, None)
        record = self.bases.current() if name is None else self.bases.get(name).check()
        return KnownBase(record.path, record.identity.fingerprint, record)

    def remove_adapter(self, spec: str) -> tuple[Version, ...]:
        """Remove an adapter (`Store.remove`), the prefixes that no version left could use any more, and its
        quarantine."""
        gone = self.store.remove(spec)
        left = {version.digest for manifest in self.store.list() for version in manifest.versions}
        dead = {version.digest for version in gone} - left
        self.prefixes().drop(versions=dead)
        quarantine = self.quarantine()
        for digest in dead:
            quarantine.lift(digest)
        return gone

    def remove_base(self, name: str) -> BaseRecord:
        """Remove a base (`Bases.remove`), and its prefixes unless another installed base has the same file."""
        from edgelora.store.prefixes.base_digest import BaseDigests

        record = self.bases.remove(name)
        prefixes = self.prefixes()
        contents = BaseDigests(prefixes.layout.bases)
        others = [other.path for other in self.bases.list()]
        digest = None if record.path in others else contents.forget(record.path)
        if digest is not None and digest not in {contents.known(other) for other in others}:
            prefixes.drop(bases={digest})
        return record


def open_library(settings: Settings, *, progress: Progress | None = None) -> Library:
    """Open the installed bases and adapters; installs the built-in ones on first use. Raises StorageError."""
    from edgelora.store.builtin import ensure_builtin

    library = Library.of(settings)
    ensure_builtin(library.bases, library.store, progress)
    return library
