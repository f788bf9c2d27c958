"""The installed adapters of a resident base, listed and changed while it runs. Thread-safe.

Owns no state: the library owns the installed adapters, the engine those in memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgelora.core.errors import NotFound, UsageError
from edgelora.core.model_id import split_model_id, without_project
from edgelora.runtime.install.sources import InstallResult, Source, install
from edgelora.runtime.pins import Pins
from edgelora.store.adapters.manifest import LATEST, previous
from edgelora.store.bases.names import goes_by

if TYPE_CHECKING:
    from edgelora.core.progress import Progress
    from edgelora.core.request import AdapterRef
    from edgelora.engine.adapters.counts import AdapterCounts
    from edgelora.engine.adapters.pool import PoolEntry
    from edgelora.engine.client import EngineClient
    from edgelora.store.adapters.manifest import AdapterManifest, Version
    from edgelora.store.bases.record import BaseRecord
    from edgelora.store.library import Library
    from edgelora.store.uploads import Uploads


@dataclass(frozen=True, slots=True)
class InstalledAdapter:
    """An installed adapter version, and its state at run time."""

    manifest: AdapterManifest
    version: Version
    entry: PoolEntry | None = None
    """Pool entry of the version; None if it has no slot."""
    counts: AdapterCounts | None = None
    """Counts of its name since the start; None if it was never used."""
    quarantined: str | None = None
    """Reason of its quarantine; None if it is not quarantined."""


class AdapterRegistry:
    def __init__(
        self,
        library: Library,
        base: BaseRecord,
        engine: EngineClient,
        *,
        resolve: Callable[[str], AdapterRef | None],
        pins: Pins,
    ) -> None:
        """`resolve`: the service's, from a model id to a version converted for its base."""
        self.library = library
        self.base = base
        self._engine = engine
        self._resolve = resolve
        self._pins = pins
        self._turn = threading.Lock()

    def latest(self) -> list[InstalledAdapter]:
        """Return the latest version of every adapter installed for this base, by name."""
        mine = self.base.identity.fingerprint.digest
        held = self._holder()
        return [
            held(manifest, manifest.latest)
            for manifest in self.library.store.list()
            if manifest.latest.base_fingerprint == mine
        ]

    def versions(self) -> list[InstalledAdapter]:
        """Return every version of every adapter installed for this base, by name, then number."""
        mine = self.base.identity.fingerprint.digest
        held = self._holder()
        every = ((manifest, version) for manifest in self.library.store.list() for version in manifest.versions)
        return [held(manifest, version) for manifest, version in every if version.base_fingerprint == mine]

    def get(self, model_id: str) -> InstalledAdapter:
        """Return one version by any form of a model id. Raises NotFound, also for the base."""
        manifest, version = self.library.store.resolve(self.spec(model_id))
        return self._holder()(manifest, version)

    def spec(self, model_id: str) -> str:
        """Return `name` or `name@version`, the store's form of a model id. Raises NotFound for the base's id."""
        parts = split_model_id(model_id)
        if parts.adapter is None or (parts.base is not None and not goes_by(self.base, parts.base)):
            raise NotFound("adapter", model_id, self.library.store.names())
        return without_project(parts.adapter)

    def install(
        self, source: Source, *, name: str, uploads: Uploads, progress: Progress | None = None
    ) -> InstallResult:
        """Install an adapter for this base, see `sources.install`. One adapter at a time is converted."""
        return install(
            source,
            name=name,
            library=self.library,
            base=self.base,
            uploads=uploads,
            progress=progress,
            turn=self._turn,
        )

    def remove(self, model_id: str) -> tuple[Version, ...]:
        """Uninstall a version, or all if given a bare name, and unpin them.

        Running requests finish. Raises NotFound.
        """
        spec = self.spec(model_id)
        gone = self.library.remove_adapter(spec)
        self._pins.drop(spec.partition("@")[0], {version.digest for version in gone})
        return gone

    def pin(self, model_id: str) -> AdapterRef:
        """See `Service.pin`."""
        ref = self._resolve(model_id)
        if ref is None:
            raise UsageError("pin_base", f"{model_id!r} is the base, which stays in memory anyway.", "Name an adapter.")
        self._pins.add(self.spec(model_id), ref)
        return ref

    def unpin(self, model_id: str) -> bool:
        """Unpin an adapter by name. Return False if it was not pinned. Raises NotFound for an unknown adapter."""
        spec = self.spec(model_id)
        self.library.store.resolve(spec)
        return self._pins.remove(spec)

    def warm(self, model_id: str) -> bool:
        """Convert the adapter if needed, and load it if there is room. Return True if it is then resident.

        Raises as `Service.resolve` does.
        """
        ref = self._resolve(model_id)
        return ref is None or self._engine.fetch(ref).result()

    def point(self, name: str, alias: str, selector: str) -> AdapterManifest:
        """Point an alias to a version, see `Store.point`."""
        return self.library.store.point(name, alias, selector)

    def unpoint(self, name: str, alias: str) -> AdapterManifest:
        return self.library.store.unpoint(name, alias)

    def roll_back(self, name: str, selector: str | None) -> AdapterManifest:
        """Point the bare name to an older version: `selector`, or the one before the current one.

        Raises NotFound, or UsageError if there is no previous version.
        """
        return self.point(name, LATEST, selector or previous(self.library.store.get(name)))

    def _holder(self) -> Callable[[AdapterManifest, Version], InstalledAdapter]:
        stats = self._engine.stats()
        entries = {entry.ref.version: entry for entry in stats.adapters}
        counts = {count.name: count for count in stats.counts}
        quarantine = self.library.quarantine()

        def held(manifest: AdapterManifest, version: Version) -> InstalledAdapter:
            locked = quarantine.find(version.digest)
            why = None if locked is None else locked.why
            return InstalledAdapter(manifest, version, entries.get(version.digest), counts.get(manifest.name), why)

        return held
