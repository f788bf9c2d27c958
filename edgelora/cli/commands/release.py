"""`edgelora release`: an adapter that crashed the engine may try again."""

from __future__ import annotations

import click

from edgelora.cli.support.app import App
from edgelora.cli.support.options import adapter_names
from edgelora.cli.support.output import note


@click.command(short_help="Let an adapter that crashed the engine try again.")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=adapter_names)
@click.pass_obj
def release(app: App, names: tuple[str, ...]) -> None:
    """Let the adapter NAME run again, or one version of it (NAME@2), after it was put into quarantine.

    An adapter that crashes a server's engine twice while it is loaded or used for the first time is not run any more;
    `edgelora ls` and `edgelora doctor` name those. A server that runs takes it again at once.
    """
    library = app.open_library()
    quarantine = library.quarantine()
    versions = []
    for name in dict.fromkeys(names):
        manifest, version = library.store.resolve(name)
        versions += [
            (name, release_version.digest) for release_version in ([version] if "@" in name else manifest.versions)
        ]
    lifted = [name for name, digest in versions if quarantine.lift(digest)]
    for name in dict.fromkeys(name for name, _ in versions):
        note(f"{name} may run again." if name in lifted else f"{name} was not in quarantine.")
