"""`edgelora release`: release an adapter from quarantine."""

from __future__ import annotations

import click

from edgelora.cli.support.app import App
from edgelora.cli.support.options import adapter_names
from edgelora.cli.support.output import note


@click.command(short_help="Release an adapter from quarantine.")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=adapter_names)
@click.pass_obj
def release(app: App, names: tuple[str, ...]) -> None:
    """Release the adapter NAME, or one version of it (NAME@2), from quarantine.

    An adapter that crashes a server's engine twice while it is loaded or first used is put into quarantine and no
    longer runs. `edgelora ls` and `edgelora doctor` list such adapters. A running server accepts it again at once.
    """
    library = app.open_library()
    quarantine = library.quarantine()
    versions = []
    for name in dict.fromkeys(names):
        manifest, version = library.store.resolve(name)
        versions += [(name, entry.digest) for entry in ([version] if "@" in name else manifest.versions)]
    lifted = [name for name, digest in versions if quarantine.lift(digest)]
    for name in dict.fromkeys(name for name, _ in versions):
        note(f"{name} may run again." if name in lifted else f"{name} was not in quarantine.")
