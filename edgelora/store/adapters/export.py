"""An installed adapter taken out of the store again, in a form for other programs. Owns no format."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from edgelora.store.adapters.manifest import Version
    from edgelora.store.adapters.store import Store
    from edgelora_models.fingerprint import BaseFingerprint

ExportFormat = Literal["peft", "gguf", "mlx"]


@dataclass(frozen=True, slots=True)
class Exported:
    nbytes: int
    worst: float
    """Largest relative error of any module against what was installed; 0.0 for the PEFT files themselves."""


def export(
    store: Store,
    name: str,
    version: Version,
    out: Path,
    *,
    to: ExportFormat,
    base: BaseFingerprint,
    base_path: Path,
    progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Write a version to `out`: for `peft` the very files it was added from, else converted for `base` and verified.

    `base_path` is where that base is: some adapters take something of its weights. `out` is a folder, for `gguf` a
    file; it appears whole or not at all, and an existing one is never replaced. Raises UsageError where it is there,
    AdapterError, StorageError.
    """
    from edgelora_converters.convert.convert import convert

    with store.source(name, version) as folder:
        if to == "peft":
            return _copy(folder, out)
        report = convert(folder, out, to=to, base=base, base_path=base_path, progress=progress)
    return Exported(report.nbytes, report.worst)


def _copy(folder: Path, out: Path) -> Exported:
    from edgelora_converters.convert.convert import refuse_existing
    from edgelora_models.storage import staged

    refuse_existing(out)
    with staged(out) as temporary:
        temporary.mkdir()
        for path in sorted(folder.iterdir()):
            shutil.copyfile(path, temporary / path.name)
        nbytes = sum(path.stat().st_size for path in temporary.iterdir())
        refuse_existing(out)
    return Exported(nbytes, 0.0)
