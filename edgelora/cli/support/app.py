"""The commands' access to settings, the library and the service. Tests replace the openers."""

from __future__ import annotations

from collections.abc import Mapping
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


class App:
    """click's context object, one for each run of the command line. Not a dataclass, which would slow down `--help`."""

    def __init__(
        self,
        environ: Mapping[str, str] | None = None,
        library: OpenLibrary = _open_library,
        service: OpenService = _open_service,
        supervised: OpenService = _open_supervised,
    ) -> None:
        """Settings are read from `environ`, or from the process's environment if it is None.

        `supervised` opens a service whose base is in a child process, which may still be loading it.
        """
        self.environ = environ
        self.library = library
        self.service = service
        self.supervised = supervised
        self.offline = False
        """True after the global option `--offline`."""
        self.as_json = False
        """True after `--json`; errors are then JSON too."""

    def settings(self, *, context: int | None = None, machine: MachineOptions | None = None) -> Settings:
        """Return the environment's settings, overridden by the command line. Raises UsageError."""
        from dataclasses import replace

        from edgelora.core.config import read_settings

        settings = read_settings(self.environ)
        if self.offline:
            settings = replace(settings, offline=True)
        if machine is not None:
            settings = machine.over(settings)
        return settings if context is None else replace(settings, context_length=context)

    def open_library(self, progress: Progress | None = None) -> Library:
        """Return the installed adapters and bases. Raises StorageError."""
        return self.library(self.settings(), progress=progress)
