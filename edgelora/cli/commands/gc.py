"""`edgelora gc`: delete files that no installed adapter needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgelora.cli.support.app import App
from edgelora.cli.support.options import json_option
from edgelora.cli.support.output import emit_json, emit_table, note
from edgelora_models.storage import size_text

if TYPE_CHECKING:
    from edgelora.store.adapters.maintenance import Garbage


@click.command(short_help="Delete files that no adapter needs.")
@click.option("--dry-run", is_flag=True, help="Only list what would be deleted.")
@json_option
@click.pass_obj
def gc(app: App, dry_run: bool, as_json: bool) -> None:
    """Delete files in the adapter store that no installed version needs, and print the bytes this frees.

    These are the leftovers of killed processes, files without a version, and conversions of an older edgelora. Files
    that a running process uses stay. `add`, `rm` and the start of a server do the same by themselves.
    """
    freed = app.open_library().store.gc(dry_run=dry_run)
    total = sum(item.nbytes for item in freed)
    if as_json:
        items = [{"path": str(item.path), "bytes": item.nbytes, "why": item.why} for item in freed]
        emit_json({"dry_run": dry_run, "bytes": total, "items": items})
        return
    _show(freed)
    verb = "would be freed" if dry_run else "freed"
    note(f"{size_text(total)} {verb}." if freed else "There is nothing to delete.")


def _show(freed: tuple[Garbage, ...]) -> None:
    if freed:
        rows = [(str(item.path), size_text(item.nbytes), item.why) for item in freed]
        emit_table(("PATH", "SIZE", "WHY"), rows, right=frozenset({1}))
