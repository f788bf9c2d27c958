"""`edgelora base pull`: from a name to an installed base. Owns the choice of files and where they go.

Files lie in `<cache>/bases/<organization>--<repository>/<content>/`; the record is written when all are there.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgelora.core.errors import BaseError, NotFound, Offline, UsageError
from edgelora.core.files import inside, locked, suggest_name
from edgelora.store.bases.registry import Bases
from edgelora.store.hub.download import RemoteFile, download_all
from edgelora_models import catalogue

if TYPE_CHECKING:
    from edgelora.core.config import Directories
    from edgelora.core.progress import Progress
    from edgelora.store.bases.record import BaseRecord
    from edgelora.store.hub.client import Listing

PREFERRED = "Q4_K_M"
"""Quantization to choose where a repository has several GGUF files."""
BUSY_TIMEOUT = 2.0
"""Seconds to wait for another process that downloads the same base."""

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_PART_OF = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_MLX_SUFFIXES = {".json", ".safetensors", ".model", ".jinja"}


@dataclass(frozen=True, slots=True)
class _PullTarget:
    """The files to pull and the name to install them under."""

    repository: str
    revision: str | None
    name: str
    files: tuple[str, ...] | None
    """Names of the files; None if they are to be chosen from the repository's listing."""
    model: str
    """The checkpoint's name on the hub."""
    aliases: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0


def pull(
    name: str,
    *,
    format: catalogue.Format,
    directories: Directories,
    offline: bool = False,
    progress: Progress | None = None,
    endpoint: str | None = None,
    token: str | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> BaseRecord:
    """Download a base of the catalogue, or `organization/repository[@revision]`, and register it.

    Goes on where an earlier, interrupted pull stopped. `progress` counts bytes over all files. `endpoint` and `token`
    default to huggingface_hub's settings. Raises NotFound, Offline, BaseError, StorageError, Busy where another process
    is at it.
    """
    target = _pull_target(name, format)
    if offline:
        raise _offline(name, target)
    from edgelora.store.hub.client import Hub

    hub, bases = Hub(endpoint=endpoint, token=token), Bases(directories)
    listing = hub.listing(target.repository, target.revision)
    files = _choose(listing, target, format)
    folder = _folder(bases, listing, files)
    busy = f"Another process is downloading {target.repository}."
    with locked(folder.with_name(f"{folder.name}.lock"), timeout=BUSY_TIMEOUT, busy=busy):
        targets = [(file, inside(folder, *file.name.split("/"))) for file in files]
        download_all(targets, name=target.name, open_range=hub.open_range, progress=progress, pause=pause)
        return _register(bases, target, listing, folder / files[0].name if format == "gguf" else folder, format)


def _pull_target(name: str, format: catalogue.Format) -> _PullTarget:
    try:
        entry = catalogue.find(name)
    except NotFound:
        repository, _, revision = name.partition("@")
        if not _REPOSITORY.fullmatch(repository):
            raise
        called = suggest_name(repository.partition("/")[2], kind="base")
        return _PullTarget(repository, revision or None, called, None, repository)
    build = entry.build(format)
    return _PullTarget(
        build.repository,
        None,
        entry.name,
        build.files,
        model=entry.model,
        aliases=entry.aliases,
        temperature=entry.temperature,
        top_p=entry.top_p,
    )


def _choose(listing: Listing, target: _PullTarget, format: catalogue.Format) -> list[RemoteFile]:
    names = target.files or _pick(sorted(listing.files), target.repository, format)
    missing = [name for name in names if name not in listing.files]
    if missing:
        message = f"{target.repository} has no {missing[0]} (commit {listing.commit[:12]})."
        raise BaseError("file_missing", message, "Pull another repository (organization/name) of this model.")
    return [listing.files[name] for name in names]


def _pick(names: Sequence[str], repository: str, format: catalogue.Format) -> tuple[str, ...]:
    """Return the files of a repository outside the catalogue that make one base."""
    if format == "mlx":
        return tuple(name for name in names if "/" not in name and Path(name).suffix in _MLX_SUFFIXES)
    single = [name for name in names if name.endswith(".gguf") and not _PART_OF.search(name)]
    chosen = single if len(single) == 1 else [name for name in single if PREFERRED in name]
    if len(chosen) != 1:
        message = f"{repository} has {len(single)} GGUF files and not exactly one of {PREFERRED}."
        raise UsageError("unclear_file", message, "Download one of them by hand, then: edgelora base add PATH.")
    return tuple(chosen)


def _folder(bases: Bases, listing: Listing, files: Sequence[RemoteFile]) -> Path:
    """Named by the files' checksums: a commit that changes none of them costs no download."""
    content = hashlib.sha256("\n".join(f"{file.checksum.value} {file.name}" for file in files).encode())
    return inside(bases.downloads, listing.repository.replace("/", "--"), content.hexdigest()[:16])


def _register(bases: Bases, target: _PullTarget, listing: Listing, path: Path, format: catalogue.Format) -> BaseRecord:
    records = {record.name: record for record in bases.list()}
    before = records.get(target.name)
    name = target.name
    if before is not None and before.format != format:
        name = f"{target.name}-{format}"
        before = records.get(name)
    record = bases.add(
        path,
        name,
        origin=f"hub:{listing.repository}@{listing.commit}",
        model=target.model,
        aliases=target.aliases,
        temperature=target.temperature,
        top_p=target.top_p,
    )
    if before is not None:
        bases.discard_download(before)
    return record


def _offline(name: str, target: _PullTarget) -> Offline:
    files = ", ".join(target.files or ("its model files",))
    return Offline(
        "offline",
        f"{name} is not on this machine, and the network is forbidden (--offline, EDGELORA_OFFLINE or HF_HUB_OFFLINE).",
        f"On a connected machine download {files} from https://huggingface.co/{target.repository}, copy it here, then: "
        "edgelora base add PATH.",
    )
