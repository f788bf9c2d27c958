"""`edgelora alias` and `rollback`: choose the version that a name refers to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgelora.cli.commands.adapters import summary
from edgelora.cli.support.app import App
from edgelora.cli.support.options import adapter_names, json_option
from edgelora.cli.support.output import emit_json, note

if TYPE_CHECKING:
    from edgelora.store.adapters.manifest import AdapterManifest


@click.command(short_help="Give a version of an adapter a name.")
@click.argument("name", metavar="NAME[@VERSION]", shell_complete=adapter_names)
@click.argument("alias", metavar="ALIAS")
@click.option("-d", "--delete", is_flag=True, help="Delete the alias instead; the version stays.")
@json_option
@click.pass_obj
def alias(app: App, name: str, alias: str, delete: bool, as_json: bool) -> None:
    """Make NAME@ALIAS refer to VERSION of the adapter NAME (default: the latest). An alias can be moved at any time.

    \b
    edgelora alias medical-faq@2 stable
    edgelora run --adapter medical-faq@stable "..."
    """
    store = app.open_library().store
    bare, _, selector = name.partition("@")
    if delete:
        manifest = store.unpoint(bare, alias)
        note(f"Deleted the alias {bare}@{alias}.")
    else:
        manifest = store.point(bare, alias, selector or "latest")
        note(f"{bare}@{alias} is now version {manifest.aliases[alias]}.")
    _emit(manifest, as_json)


@click.command(short_help="Go back to an older version of an adapter.")
@click.argument("name", metavar="NAME[@VERSION]", shell_complete=adapter_names)
@json_option
@click.pass_obj
def rollback(app: App, name: str, as_json: bool) -> None:
    """Make NAME refer to VERSION again (default: the previous version). Newer versions stay available as NAME@NUMBER.

    A running server uses it from the next request on.
    """
    from edgelora.store.adapters.manifest import LATEST, previous

    store = app.open_library().store
    bare, _, selector = name.partition("@")
    manifest = store.point(bare, LATEST, selector or previous(store.get(bare)))
    note(f"{bare} is now version {manifest.latest.number}.")
    _emit(manifest, as_json)


def _emit(manifest: AdapterManifest, as_json: bool) -> None:
    if as_json:
        emit_json(summary(manifest, manifest.latest) | {"aliases": dict(manifest.aliases)})
