"""The adapters installed on this machine: added, found, converted and removed by name.

Readers take no lock and see a manifest as it was before or after a change. Writers prepare everything in a temporary
folder and change the store in one short locked step, the manifest last: a process killed anywhere leaves the store as
it was, and at most some garbage that `gc` collects. Owns files only; what is in memory is the pool's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgelora.core.errors import EdgeloraError, NotFound, StorageError, UsageError
from edgelora.core.files import check_name, locked, sweep, valid_name, workspace
from edgelora.core.request import AdapterRef
from edgelora.store.adapters import conversions, maintenance
from edgelora.store.adapters.conversions import ConversionTarget, Converted
from edgelora.store.adapters.describe import describe, naming
from edgelora.store.adapters.layout import AdapterLayout
from edgelora.store.adapters.maintenance import Garbage, Problem
from edgelora.store.adapters.manifest import (
    LATEST,
    AdapterManifest,
    Conversion,
    Version,
    check_alias,
    encode,
    first_manifest,
)
from edgelora.store.adapters.normalize import resolve
from edgelora.store.adapters.source_folder import assemble
from edgelora.store.adapters.staging import Staged, default_name, stage
from edgelora.store.adapters.warning import USUAL_CHECKS, Checks, refuse
from edgelora_models.storage import make_folder, move, size_text, storing, write_atomic

if TYPE_CHECKING:
    from edgelora.core.progress import Progress
    from edgelora.core.request import AdapterFormat
    from edgelora.store.bases.record import BaseRecord
    from edgelora_converters.lora.adapter import LoraAdapter
    from edgelora_converters.peft.read_options import ReadOptions

logger = logging.getLogger(__name__)

COMMIT_TIMEOUT = 60.0
"""Seconds to wait for another writer's short step."""
CONVERT_TIMEOUT = 600.0
"""Seconds to wait while another process converts the same adapter."""
CONVERTED = "converted"
"""Where in a workspace a conversion is made."""


class Store:
    """Everything below one folder, which is made on the first write. Thread-safe and process-safe."""

    def __init__(
        self,
        root: Path,
        *,
        clock: Callable[[], float] = time.time,
        means_base: Callable[[str], bool] = lambda _name: False,
    ) -> None:
        """`means_base`: returns True for a name that no adapter may have, because a base goes by it."""
        self._layout = AdapterLayout(root)
        self._clock = clock
        self._means_base = means_base

    @property
    def root(self) -> Path:
        return self._layout.root

    def names(self) -> tuple[str, ...]:
        """Return every installed adapter's name, sorted. Reads no manifest."""
        return tuple(path.stem for path in maintenance.manifest_paths(self._layout))

    def list(self) -> tuple[AdapterManifest, ...]:
        """Return every installed adapter, by name. A damaged manifest is logged and left out, so that it hides no
        other."""
        manifests = []
        for name in self.names():
            try:
                manifests.append(self.get(name))
            except (NotFound, StorageError) as error:
                logger.warning("adapter %s is not listed: %s", name, error)
        return tuple(manifests)

    def get(self, name: str) -> AdapterManifest:
        """One adapter. Raises NotFound with near names, StorageError where its manifest is damaged."""
        manifest = maintenance.read_manifest(self._layout, name) if valid_name(name) else None
        if manifest is None:
            raise NotFound("adapter", name, self.names(), "`edgelora ls` shows what is installed.")
        return manifest

    def resolve(self, spec: str) -> tuple[AdapterManifest, Version]:
        """Return the version that `name`, `name@3`, `name@latest` or `name@<six or more digits of its digest>`
        means."""
        name, sign, selector = spec.partition("@")
        manifest = self.get(name)
        return manifest, manifest.find(selector) if sign else manifest.latest

    def ref(
        self,
        spec: str,
        base: BaseRecord,
        *,
        to: AdapterFormat | None = None,
        widened: bool = False,
        progress: Progress | None = None,
    ) -> AdapterRef:
        """Return a version, converted for `base` (`to`: the usual format): now, from the kept source, where that has
        not been done before. `widened`: whether its values will take four bytes each in memory, in however few they are
        stored.

        Raises NotFound, AdapterIncompatible where its shapes do not fit the base, StorageError.
        """
        manifest, version = self.resolve(spec)
        chosen = to or conversions.USUAL[base.format]
        converted = conversions.find(self._layout, version.digest, ConversionTarget.of(version, chosen, base))
        if converted is None:
            converted = self._convert_kept(manifest.name, version, base, chosen, progress)
        nbytes = 4 * version.parameters if widened else converted.conversion.memory_bytes
        return AdapterRef(manifest.name, version.digest, converted.path, nbytes, version.invocation)

    @contextmanager
    def source(self, name: str, version: Version) -> Iterator[Path]:
        """Yield the PEFT folder a version was added from, put together again for the block. Raises StorageError."""
        with workspace(self._layout.tmp) as work:
            with self._committing():
                folder = assemble(self._layout, name, version, work)
            yield folder

    def conversions(self, version: Version) -> tuple[Converted, ...]:
        """What a version has been converted to so far."""
        return conversions.every(self._layout, version.digest)

    def check_name(self, name: str) -> str:
        """Return the name if an adapter may have it. Raises UsageError (code bad_name or reserved_name)."""
        if self._means_base(check_name(name, kind="adapter")):
            message = f"{name!r} is the name of a base, which would answer in the adapter's place."
            raise UsageError("reserved_name", message, "Choose another name for the adapter (--name).", param="name")
        return name

    def add(
        self,
        source: Path,
        *,
        name: str | None = None,
        base: BaseRecord,
        reading: ReadOptions | None = None,
        origin: str = "",
        immutable: bool = False,
        checks: Checks = USUAL_CHECKS,
        progress: Progress | None = None,
    ) -> tuple[AdapterManifest, Version]:
        """Install a PEFT or MLX folder or archive as the latest version of `name` (default: its own), made for `base`.

        `reading`: what may be used beside the adapter's files; an adapter that needs it, and MLX's, is kept as plain
        factors (see `resolve`). `immutable`: nobody will change the files of `source`, so they may be linked. `checks`:
        what is refused beyond what cannot be run. The same content under the same name is the version it was.

        Raises UsageError, AdapterError, StorageError; then nothing has changed.
        """
        from edgelora_converters.convert.source import check_declared
        from edgelora_converters.lora.suitability import check_architecture

        chosen = self.check_name(default_name(source) if name is None else name)
        sweep(make_folder(self._layout.tmp))
        with workspace(self._layout.tmp) as work:
            copied = stage(source, work, immutable=immutable)
            if checks.architecture:
                check_declared(copied.path)
            with naming(chosen, None, base):
                staged, adapter = resolve(copied, work, base.identity.fingerprint, reading)
            if checks.architecture:
                check_architecture(adapter.base_model, adapter.metadata.get("base_class"))
            version = describe(adapter, staged, base, origin=origin, created=self._clock())
            if checks.strict:
                refuse(version.warnings)
            with self._converting(version.digest):
                made = None
                goal = ConversionTarget.of(version, conversions.USUAL[base.format], base)
                if conversions.find(self._layout, version.digest, goal) is None:
                    made = _convert(chosen, version, adapter, work, base, goal, progress)
                with self._committing():
                    added = self._commit(chosen, version, staged, made, goal, work)
        self.tidy()
        return added

    def point(self, name: str, alias: str, selector: str) -> AdapterManifest:
        """Have `alias` mean a version: a number, another alias, or six or more digits of its digest. `latest` is one,
        so that pointing it at an older version takes the newer ones back.

        Raises NotFound, UsageError for an alias that could be mistaken for a version, StorageError.
        """
        check_alias(alias)
        with self._committing():
            manifest = self.get(name)
            after = manifest.pointing(alias, manifest.find(selector).number)
            if after != manifest:
                self._write(after)
        return after

    def unpoint(self, name: str, alias: str) -> AdapterManifest:
        """Take an alias away. Raises NotFound, UsageError for `latest`, which every adapter has."""
        if alias == LATEST:
            raise UsageError("bad_alias", f"{LATEST!r} cannot be taken away.", "Point it at another version.")
        with self._committing():
            manifest = self.get(name)
            after = manifest.unpointing(alias)
            self._write(after)
        return after

    def remove(self, spec: str) -> tuple[Version, ...]:
        """Uninstall a version, or with a bare name all of them, and return what went. Raises NotFound.

        Files that another version shares stay; those a running process has open stay readable to it.
        """
        name, sign, selector = spec.partition("@")
        self.get(name)
        with self._committing():
            manifest = self.get(name)
            gone = (manifest.find(selector),) if sign else manifest.versions
            left = manifest.without(gone[0].number) if sign else None
            if left is None:
                maintenance.delete_manifest(self._layout, name)
            else:
                self._write(left)
            maintenance.release(self._layout, gone)
        self.tidy()
        return gone

    def verify(self) -> tuple[Problem, ...]:
        """Recompute every digest. Empty: all is as it was installed."""
        return maintenance.verify(self._layout)

    def gc(self, *, dry_run: bool = False) -> tuple[Garbage, ...]:
        """Delete what no installed version needs, and return it; with `dry_run` only list it.

        That is what killed processes left behind, blobs and conversions without a version, and conversions of older
        converters. What a live process maps or is still writing stays. Raises Busy, and StorageError where a manifest
        is damaged: what it uses is unknown.
        """
        if not dry_run:
            sweep(make_folder(self._layout.tmp), now=self._clock())
        with self._committing():
            items = maintenance.garbage(self._layout)
            return tuple(items if dry_run else maintenance.collect(self._layout, items))

    def tidy(self) -> None:
        """Collect garbage after a change or at a start. What prevents it is logged, and never fails the caller."""
        try:
            freed = self.gc()
        except EdgeloraError as error:
            logger.warning("garbage was not collected: %s", error)
        else:
            if freed:
                logger.info("%s of garbage were deleted", size_text(sum(item.nbytes for item in freed)))

    def _convert_kept(
        self, name: str, version: Version, base: BaseRecord, to: AdapterFormat, progress: Progress | None
    ) -> Converted:
        from edgelora_converters.peft import reader as peft_reader

        with workspace(self._layout.tmp) as work, self._converting(version.digest):
            goal = ConversionTarget.of(version, to, base)
            converted = conversions.find(self._layout, version.digest, goal)
            if converted is not None:
                return converted
            with self._committing():
                source = assemble(self._layout, name, version, work)
            with naming(name, version.base_model, base):
                adapter = peft_reader.read(source, base.identity.fingerprint.shape)
            made = _convert(name, version, adapter, work, base, goal, progress)
            with self._committing():
                return conversions.publish(self._layout, work / CONVERTED, made, goal)

    def _commit(
        self, name: str, version: Version, staged: Staged, made: Conversion | None, goal: ConversionTarget, work: Path
    ) -> tuple[AdapterManifest, Version]:
        for file in staged.files:
            # A blob that is there is replaced too: adding again repairs one that has been damaged.
            blob = self._layout.blob(file.digest)
            make_folder(blob.parent)
            with storing(blob):
                move(staged.folder / file.name, blob)
        if made is not None:
            conversions.publish(self._layout, work / CONVERTED, made, goal)
        before = maintenance.read_manifest(self._layout, name)
        after = _adding(before, name, version)
        if after != before:
            self._write(after)
        return after, after.latest

    def _write(self, manifest: AdapterManifest) -> None:
        write_atomic(self._layout.manifest(manifest.name), encode(manifest))

    def _converting(self, digest: str) -> AbstractContextManager[None]:
        busy = "Another process is still converting this adapter."
        return locked(self._layout.conversion_lock(digest), timeout=CONVERT_TIMEOUT, busy=busy)

    def _committing(self) -> AbstractContextManager[None]:
        busy = f"Another process is changing the store in {self._layout.root}."
        return locked(self._layout.commit_lock, timeout=COMMIT_TIMEOUT, busy=busy)


def _adding(before: AdapterManifest | None, name: str, version: Version) -> AdapterManifest:
    if before is None:
        return first_manifest(name, version)
    existing = before.with_digest(version.digest)
    if existing is not None:
        return before.warned(existing.number, version.warnings).pointing(LATEST, existing.number)
    return before.adding(msgspec.structs.replace(version, number=before.next_number))


def _convert(
    name: str,
    version: Version,
    adapter: LoraAdapter,
    work: Path,
    base: BaseRecord,
    goal: ConversionTarget,
    progress: Progress | None,
) -> Conversion:
    label = f"Converting {name}"
    if goal.weights:
        base.check()
    with naming(name, version.base_model, base):
        return conversions.make(
            adapter,
            work / CONVERTED,
            goal=goal,
            progress=None if progress is None else lambda done, total: progress(label, done, total),
        )
