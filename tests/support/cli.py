"""The command line over a fake service and a real store: `run` in this process, or a script for another one."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from click.testing import CliRunner, Result

from edgelora.cli.root import cli
from edgelora.cli.support.app import App
from edgelora.core.config import read_settings
from edgelora.runtime.service import Service
from edgelora.store.library import Library
from tests.support.adapters import TINY, write_peft
from tests.support.bases import MIN_VOCAB, write_tiny_gguf
from tests.support.service import FakeService

SHAPE = replace(TINY, vocab=MIN_VOCAB)
ANSWERS = {"medical-faq": "See a doctor.", "pirate": "Arr, matey!"}
"""The fake service's adapters and what each says."""


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def make_library(home: Path) -> Library:
    """A store with `medical-faq` and `pirate`, and the base `tiny`, below `home`."""
    home.mkdir(exist_ok=True)
    settings = read_settings({"EDGELORA_HOME": str(home)})
    library = Library.of(settings)
    record = library.bases.add(write_tiny_gguf(home / "tiny.gguf", SHAPE, seed=0), "tiny")
    library.bases.use("tiny")
    for seed, name in enumerate(ANSWERS):
        library.store.add(write_peft(home / "sources" / name, SHAPE, seed=seed), name=name, base=record)
    return library


def make_app(library: Library | None = None, service: FakeService | None = None, **environ: str) -> App:
    """An app that opens these, whatever it is asked for, and settings from `environ` alone."""

    def no_library(*_: object, **__: object) -> Library:
        raise AssertionError("the command was not to open the library")

    def no_service(*_: object, **__: object) -> Service:
        raise AssertionError("the command was not to load a base")

    # Without a library the test's own home, so that nothing is ever written into the user's folders.
    kept = os.environ.get("EDGELORA_HOME", "") if library is None else str(library.settings.directories.data.parent)
    home = {"EDGELORA_HOME": kept}
    opened = no_service if service is None else lambda settings, *, base, progress: cast(Service, service)
    return App(
        environ=home | environ,
        library=no_library if library is None else lambda settings, *, progress: replace(library, settings=settings),
        service=opened,
        supervised=opened,
    )


def run(app: App, *arguments: str, stdin: str | bytes | None = None) -> Result:
    """`edgelora ARGUMENTS`, with stdout and stderr apart. stdin is never a terminal."""
    return CliRunner().invoke(cli, list(arguments), obj=app, input=stdin)


def script(
    folder: Path, *, adapters: Mapping[str, str] = ANSWERS, answer: str | None = None, setup: str = ""
) -> list[str]:
    """A command that starts `edgelora` in a process of its own, over a FakeService; `setup` may change `service`."""
    home = {"EDGELORA_HOME": str(folder / "home")}
    return [
        sys.executable,
        "-c",
        "from pathlib import Path\n"
        "from edgelora.cli.root import cli\n"
        "from tests.support.cli import App, FakeService, make_app\n"
        f"service = FakeService(Path({str(folder)!r}), adapters={dict(adapters)!r}, answer={answer!r})\n"
        f"{setup}\n"
        f"app = make_app(service=service, **{home!r})\n"
        "cli.main(prog_name='edgelora', obj=app)\n",
    ]
