"""`edgelora pull`: from a repository's name to an installed adapter, or base. Owns the decision which of the two it is.

A repository is an adapter's where it holds an adapter_config.json. Without a network, and where the hub cannot be
reached, what was pulled before is installed from the cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgelora.core.errors import AdapterError, BaseError, Offline, UsageError
from edgelora.core.files import suggest_name
from edgelora.store.adapters.warning import USUAL_CHECKS, Checks
from edgelora.store.hub.adapter_cache import AdapterCache, CacheRequest, Fetched, holds_adapter

if TYPE_CHECKING:
    from edgelora.core.progress import Progress
    from edgelora.store.adapters.manifest import AdapterManifest, Version
    from edgelora.store.bases.record import BaseRecord
    from edgelora.store.hub.client import Hub, Listing
    from edgelora.store.library import Library
    from edgelora_converters.peft.read_options import ReadOptions


@dataclass(frozen=True, slots=True)
class PullOptions:
    """The options of a pull."""

    called: str | None = None
    """Name to install it under; None for the repository's own."""
    base: str | None = None
    """Name of the base it is for; None for the chosen one."""
    subfolder: str | None = None
    """Folder of the adapter, if the repository has several."""
    reading: ReadOptions | None = None
    """Additional files that may be used to read it, see `Store.add`."""
    checks: Checks = USUAL_CHECKS
    """What is refused, see `Store.add`."""


@dataclass(frozen=True, slots=True)
class HubAccess:
    """Access to the hub. `endpoint` and `token` default to huggingface_hub's settings."""

    token: str | None = None
    endpoint: str | None = None
    progress: Progress | None = None
    pause: Callable[[float], None] = time.sleep
    limit_bytes: int | None = None
    """Maximum total bytes of an adapter's files; None for all free disk space."""
    turn: AbstractContextManager[object] = field(default_factory=nullcontext)
    """Held while the download is installed, but not during the download."""


@dataclass(frozen=True, slots=True)
class PulledAdapter:
    manifest: AdapterManifest
    version: Version
    base: BaseRecord
    cached: float | None
    """Unix seconds of the download if it came from the cache; None if it came from the hub now."""


def pull(
    name: str, *, library: Library, options: PullOptions = PullOptions(), access: HubAccess = HubAccess()
) -> PulledAdapter | BaseRecord:
    """Install what `organization/repository[@revision]` holds: an adapter, or a base; or a known base by its name.

    Raises NotFound, Offline, AdapterError, BaseError, UsageError (wishes for an adapter where a base is), StorageError,
    Busy where another process is at it.
    """
    cache_request = CacheRequest.parse(name, options.subfolder)
    if cache_request is None:
        return _pull_base(name, library, options, access)
    cache = AdapterCache(library.settings.directories.cache / "adapters")
    try:
        hub, listing = _ask(cache_request, library, access)
    except Offline as error:
        if (fetched := cache.find(cache_request)) is None:
            raise _not_here(cache_request, error) from error
        with access.turn:
            return _install(cache_request, fetched, library, options, cached=fetched.fetched, progress=access.progress)
    if options.subfolder is None and not holds_adapter(cache_request, listing.files):
        _check_base(cache_request, listing)
        return _pull_base(name, library, options, access)
    # Before anything is downloaded.
    _base(library, options)
    library.store.check_name(options.called or _free_name(cache_request, library))
    with _of_an_adapter():
        fetched = cache.fetch(
            cache_request,
            listing,
            open_range=hub.open_range,
            progress=access.progress,
            pause=access.pause,
            limit_bytes=access.limit_bytes,
        )
    with access.turn:
        return _install(cache_request, fetched, library, options, cached=None, progress=access.progress)


def _ask(wanted: CacheRequest, library: Library, access: HubAccess) -> tuple[Hub, Listing]:
    if library.settings.offline:
        message = "The network is forbidden (--offline, EDGELORA_OFFLINE or HF_HUB_OFFLINE)."
        raise Offline("offline", message, "Allow it, or copy the adapter's files here: edgelora add DIR.")
    from edgelora.store.hub.client import Hub

    hub = Hub(endpoint=access.endpoint, token=access.token)
    with _of_an_adapter():
        return hub, hub.listing(wanted.repository, wanted.revision)


def _install(
    wanted: CacheRequest,
    found: Fetched,
    library: Library,
    options: PullOptions,
    *,
    cached: float | None,
    progress: Progress | None,
) -> PulledAdapter:
    record = _base(library, options)
    manifest, version = library.store.add(
        found.folder,
        name=options.called or _free_name(wanted, library),
        base=record,
        reading=options.reading,
        origin=found.origin,
        immutable=True,
        checks=options.checks,
        progress=progress,
    )
    return PulledAdapter(manifest, version, record, cached)


def _base(library: Library, options: PullOptions) -> BaseRecord:
    return library.bases.get(options.base) if options.base else library.bases.current()


def _free_name(wanted: CacheRequest, library: Library) -> str:
    """Return the repository's own name, or its subfolder's, unless something of another origin has it."""
    text = wanted.subfolder.rpartition("/")[2] if wanted.subfolder else wanted.repository.partition("/")[2]
    name = suggest_name(text, kind="adapter")
    if name not in library.store.names():
        return name
    origin = library.store.get(name).latest.origin
    if origin.partition("@")[0] == f"hub:{wanted.repository}":
        return name
    message = f"{name} is already the name of an adapter of another origin ({origin or 'added from this machine'})."
    raise UsageError("name_taken", message, "Give it another name, or this one to make it the next version: --name.")


def _pull_base(name: str, library: Library, options: PullOptions, access: HubAccess) -> BaseRecord:
    if options != PullOptions():
        message = f"{name} is pulled as a base, and what was asked for is an adapter's."
        raise UsageError("not_an_adapter", message, "Leave out everything but the name and --token.")
    from edgelora.store.bases.pull import pull as pull_base

    return pull_base(
        name,
        format="gguf",
        directories=library.settings.directories,
        offline=library.settings.offline,
        progress=access.progress,
        endpoint=access.endpoint,
        token=access.token,
        pause=access.pause,
    )


def _check_base(wanted: CacheRequest, listing: Listing) -> None:
    if any(name.endswith(".gguf") for name in listing.files):
        return
    message = f"{wanted.repository} holds neither an adapter (adapter_config.json) nor a GGUF file."
    raise UsageError("nothing_to_pull", message, "For a model in MLX's form: edgelora base pull NAME --format mlx.")


@contextmanager
def _of_an_adapter() -> Iterator[None]:
    """Convert the hub's and the download's errors, which assume a base, to those of an adapter."""
    try:
        yield
    except BaseError as error:
        raise AdapterError(error.code, error.what, error.remedy) from error


def _not_here(wanted: CacheRequest, error: Offline) -> Offline:
    message = f"{wanted.repository} was not pulled before, and {error.what[0].lower()}{error.what[1:]}"
    return Offline(error.code, message, error.remedy)
