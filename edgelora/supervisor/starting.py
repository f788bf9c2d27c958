"""A base in an engine's process: what its parent says, and what is opened there. Both ends of one value."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from edgelora.bases.record import BaseRecord
from edgelora.config import Settings
from edgelora.opening import Setup, open_backend, open_vocabulary
from edgelora.supervisor import messages
from edgelora.supervisor.remote import RemoteEngine
from edgelora.supervisor.watch import Times

if TYPE_CHECKING:
    from edgelora.backends.base import Backend
    from edgelora.core import Progress
    from edgelora.library import Library

OPENER = f"{__name__}:open_base"


class Asked(msgspec.Struct, frozen=True):
    """What `open_base` opens."""

    record: BaseRecord
    setup: Setup
    settings: Settings


def start_engine(
    library: Library, record: BaseRecord, setup: Setup, settings: Settings, *, times: Times | None = None
) -> RemoteEngine:
    """The engine over `record`, whose process begins to load it now. Raises BaseError, BackendError."""
    vocabulary = open_vocabulary(record)
    store = library.prefixes()
    prefixes = None
    if store.budget_bytes:
        template = record.identity.fingerprint.template
        prefixes = messages.Prefixes(store.layout.root, store.budget_bytes, record.path, template)
    asked = Asked(record, setup, replace(settings, api_key=None))
    first = messages.Open(
        OPENER,
        messages.encode(asked),
        settings.adapter_budget_bytes,
        settings.max_queue,
        settings.speculate == "auto",
        os.getpid(),
        prefixes,
    )
    printed = settings.directories.state / "engine.log"
    return RemoteEngine(first, vocabulary=vocabulary, quarantine=library.quarantine(), printed=printed, times=times)


def open_base(argument: bytes, progress: Progress) -> Backend:
    """In the engine's process. Raises as `open_backend` does."""
    asked = messages.decoded(argument, Asked)
    return open_backend(asked.record.check(), asked.setup, asked.settings, progress)
