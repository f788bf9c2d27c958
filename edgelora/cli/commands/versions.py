"""`edgelora alias`, `rollback`: which version a name means."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgelora.cli.commands.adapters import summary
from edgelora.cli.support.app import App
from edgelora.cli.support.options import adapter_names, json_option
from edgelora.cli.support.output import emit_json, note

if TYPE_CHECKING:
    from edgelora.store.adapters.manifest import AdapterManifest


@click.command(short_help="Name a version of an adapter.")
@click.argument("name", metavar="NAME[@VERSION]", shell_complete=adapter_names)
@click.argument("alias", metavar="ALIAS")
@click.option("-d", "--delete", is_flag=True, help="Take the alias away instead; the version stays.")
@json_option
@click.pass_obj
def alias(app: App, name: str, alias: str, delete: bool, as_json: bool) -> None:
    """Have NAME@ALIAS mean a version of the adapter NAME: VERSION, or the latest. The alias can be moved at any time.

    \b
    edgelora alias medical-faq@2 stable
    edgelora run --adapter medical-faq@stable "..."
    """
    store = app.open_library().store
    bare, _, selector = name.partition("@")
    if delete:
        manifest = store.unpoint(bare, alias)
        note(f"{bare}@{alias} means nothing any more.")
    else:
        manifest = store.point(bare, alias, selector or "latest")
        note(f"{bare}@{alias} means version {manifest.aliases[alias]}.")
    _emit(manifest, as_json)


@click.command(short_help="Go back to an older version of an adapter.")
@click.argument("name", metavar="NAME[@VERSION]", shell_complete=adapter_names)
@json_option
@click.pass_obj
def rollback(app: App, name: str, as_json: bool) -> None:
    """Have NAME mean its version VERSION again, or the one before the present. Newer versions stay as NAME@NUMBER.

    A server that runs uses it from the next request on.
    """
    from edgelora.store.adapters.manifest import LATEST, previous

    store = app.open_library().store
    bare, _, selector = name.partition("@")
    manifest = store.point(bare, LATEST, selector or previous(store.get(bare)))
    note(f"{bare} means version {manifest.latest.number}.")
    _emit(manifest, as_json)


def _emit(manifest: AdapterManifest, as_json: bool) -> None:
    if as_json:
        emit_json(summary(manifest, manifest.latest) | {"aliases": dict(manifest.aliases)})
