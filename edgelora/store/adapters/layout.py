"""The paths of everything below the store's root. Pure; touches no disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgelora.core.errors import StorageError
from edgelora.core.files import inside, valid_digest


@dataclass(frozen=True, slots=True)
class AdapterLayout:
    """
    manifests/<name>.json                           one adapter, its versions and aliases
    blobs/sha256/<aa>/<hex>                         the PEFT files of every version, shared by content
    conversions/<version digest>/<variant>/         converted files with their conversion.json; can be made again
    locks/  tmp/                                    writers only
    """

    root: Path

    @property
    def manifests(self) -> Path:
        return self.root / "manifests"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs" / "sha256"

    @property
    def conversions(self) -> Path:
        return self.root / "conversions"

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    @property
    def commit_lock(self) -> Path:
        """Held for the moments in which manifests change or files disappear."""
        return self.root / "locks" / "store.lock"

    def manifest(self, name: str) -> Path:
        return inside(self.manifests, f"{name}.json")

    def blob(self, digest: str) -> Path:
        return self.blobs / _digest(digest)[:2] / digest

    def versions_conversions(self, digest: str) -> Path:
        """Return the folder of all conversions of one version."""
        return self.conversions / _digest(digest)

    def conversion_lock(self, digest: str) -> Path:
        """Held while a version is converted, so that two processes do not do the same work. Some digests share one."""
        return self.root / "locks" / f"convert-{_digest(digest)[:2]}.lock"


def _digest(text: str) -> str:
    if not valid_digest(text):
        raise StorageError("store_damaged", f"{text!r} is no sha256 digest.")
    return text
