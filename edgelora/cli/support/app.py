"""The commands' way to the rest: settings, the library, the service. Tests hand in their own openers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from edgelora.cli.support.overrides import MachineOptions
    from edgelora.core.config import Settings
    from edgelora.core.progress import Progress
    from edgelora.runtime.service import Service
    from edgelora.store.library import Library


class OpenLibrary(Protocol):
    def __call__(self, settings: Settings, *, progress: Progress | None) -> Library: ...


class OpenService(Protocol):
    def __call__(self, settings: Settings, *, base: str | None, progress: Progress | None) -> Service: ...


def _open_library(settings: Settings, *, progress: Progress | None) -> Library:
    from edgelora.store.library import open_library

    return open_library(settings, progress=progress)


def _open_service(settings: Settings, *, base: str | None, progress: Progress | None) -> Service:
    from edgelora.runtime.service import Service

    return Service.open(settings, base=base, progress=progress)


def _open_supervised(settings: Settings, *, base: str | None, progress: Progress | None) -> Service:
    from edgelora.runtime.service import Service

    return Service.supervised(settings, base=base, progress=progress)


@dataclass(slots=True)
class App:
    """click's context object: one for each run of the command line."""

    environ: Mapping[str, str] | None = None
    """The environment that settings are read from; None is the process's own."""
    library: OpenLibrary = _open_library
    service: OpenService = _open_service
    supervised: OpenService = _open_supervised
    """The same with the base in a process of its own, which may still be loading it."""
    offline: bool = False
    """The global `--offline`."""
    as_json: bool = False
    """Whether `--json` was given, so that errors are JSON too."""

    def settings(self, *, context: int | None = None, machine: MachineOptions | None = None) -> Settings:
        """Return the environment's settings under what the command line says. Raises UsageError."""
        from edgelora.core.config import read_settings

        settings = read_settings(self.environ)
        if self.offline:
            settings = replace(settings, offline=True)
        if machine is not None:
            settings = machine.over(settings)
        return settings if context is None else replace(settings, context_length=context)

    def open_library(self, progress: Progress | None = None) -> Library:
        """Return what is installed. Raises StorageError."""
        return self.library(self.settings(), progress=progress)
