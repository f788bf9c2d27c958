"""A base in an engine's process: the parent's request, and the function that opens the base there."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from edgelora.backends.setup import Setup
from edgelora.core.config import Settings
from edgelora.engine.process import messages
from edgelora.engine.process.remote import RemoteEngine
from edgelora.engine.process.watchdog import WatchdogTimes
from edgelora.runtime.opening.open import open_backend, open_tokenizer
from edgelora.store.bases.record import BaseRecord

if TYPE_CHECKING:
    from edgelora.backends.base import Backend
    from edgelora.core.progress import Progress
    from edgelora.store.library import Library

OPENER = f"{__name__}:open_base"


class OpenRequest(msgspec.Struct, frozen=True):
    """The argument of `open_base`."""

    record: BaseRecord
    setup: Setup
    settings: Settings


def start_engine(
    library: Library, record: BaseRecord, setup: Setup, settings: Settings, *, times: WatchdogTimes | None = None
) -> RemoteEngine:
    """Return the engine over `record`, whose process begins to load it now. Raises BaseError, BackendError."""
    tokenizer = open_tokenizer(record)
    store = library.prefixes()
    prefixes = None
    if store.budget_bytes:
        template = record.identity.fingerprint.template
        prefixes = messages.Prefixes(store.layout.root, store.budget_bytes, record.path, template)
    open_request = OpenRequest(record, setup, replace(settings, api_key=None))
    first = messages.Open(
        OPENER,
        messages.encode(open_request),
        settings.adapter_budget_bytes,
        settings.max_queue,
        settings.speculate == "auto",
        os.getpid(),
        prefixes,
    )
    printed = settings.directories.state / "engine.log"
    return RemoteEngine(first, tokenizer=tokenizer, quarantine=library.quarantine(), printed=printed, times=times)


def open_base(argument: bytes, progress: Progress) -> Backend:
    """Open the base in the engine's process. Raises as `open_backend` does."""
    open_request = messages.decoded(argument, OpenRequest)
    return open_backend(open_request.record.check(), open_request.setup, open_request.settings, progress)
