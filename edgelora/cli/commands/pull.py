"""`edgelora pull`: download an adapter, or a base, from the Hugging Face hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgelora.cli.commands.adapters import summary, tell_warnings
from edgelora.cli.commands.base import summary as base_summary
from edgelora.cli.support.app import App
from edgelora.cli.support.options import base_names, catalogue_names, json_option
from edgelora.cli.support.output import emit_json, hint, human_age, note
from edgelora.cli.support.source_options import CheckOptions, ReadingOptions, check_options, opened, reading_options

if TYPE_CHECKING:
    from edgelora.runtime.install.pull import PulledAdapter


@click.command(short_help="Download and install an adapter.")
@click.argument("name", metavar="ORG/REPO[@REVISION]", shell_complete=catalogue_names)
@click.option("-n", "--name", "called", metavar="NAME", help="The adapter's name.  [default: the repository's name]")
@click.option(
    "--base", metavar="NAME", shell_complete=base_names, help="The base it was trained on.  [default: the chosen base]"
)
@click.option("--subfolder", metavar="DIR", help="The adapter's folder, if the repository has several.")
@click.option(
    "--token",
    metavar="TOKEN",
    help="For private repositories.  [default: HF_TOKEN, or `hf auth login`]",
)
@reading_options
@check_options
@json_option
@click.pass_obj
def pull(
    app: App,
    name: str,
    called: str | None,
    base: str | None,
    subfolder: str | None,
    token: str | None,
    reading: ReadingOptions,
    refusing: CheckOptions,
    as_json: bool,
) -> None:
    """Download the adapter in a Hugging Face repository, and install it as `edgelora add` does.

    An interrupted download resumes where it stopped. Downloads are cached, so that the same command also works offline
    later. A repository that holds a model is pulled as a base.

    \b
    edgelora pull some-org/medical-faq-lora --name medical-faq
    """
    from edgelora.cli.support.progress import progress_bars
    from edgelora.runtime.install.pull import HubAccess, PullOptions
    from edgelora.runtime.install.pull import pull as pull_repository
    from edgelora.store.bases.record import BaseRecord

    try:
        with progress_bars() as bars, opened(reading, bars) as given:
            library = app.open_library(bars)
            options = PullOptions(called, base, subfolder, reading=given, checks=refusing.checks())
            pulled = pull_repository(
                name, library=library, options=options, access=HubAccess(token=token, progress=bars)
            )
    except KeyboardInterrupt:
        note("Stopped. The downloaded part is kept; run the same command to resume.")
        raise
    if isinstance(pulled, BaseRecord):
        if as_json:
            emit_json(base_summary(pulled, library.bases.chosen()))
            return
        note(f"Pulled {pulled.name}, a base.")
        hint(f"Choose it: edgelora base use {pulled.name}")
    elif as_json:
        emit_json(summary(pulled.manifest, pulled.version) | {"origin": pulled.version.origin})
    else:
        _report(pulled)


def _report(pulled: PulledAdapter) -> None:
    import time

    name, version = pulled.manifest.name, pulled.version
    if pulled.cached is not None:
        note(f"The hub was not contacted; this copy was downloaded {human_age(time.time() - pulled.cached)}.")
    note(f"Installed {name}, version {version.number}, for {pulled.base.name} (rank {version.rank}).")
    if version.treatment:
        note(f"How its factors were read: {version.treatment}.")
    tell_warnings(version)
    hint(f'Try it: edgelora run --adapter {name} "..."')
