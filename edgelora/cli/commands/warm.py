"""`edgelora warm`: adapters made ready before they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgelora.cli.support.app import App
from edgelora.cli.support.options import adapter_names, base_option, json_option
from edgelora.cli.support.output import emit_json, note

if TYPE_CHECKING:
    from edgelora.store.adapters.prewarm import Prewarmed


@click.command(short_help="Make adapters ready for their first use.")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=adapter_names)
@base_option
@json_option
@click.pass_obj
def warm(app: App, names: tuple[str, ...], base: str | None, as_json: bool) -> None:
    """Make the adapters NAME ready: convert them for the base where that was not done yet, and bring them into memory.

    Into the system's file cache, that is, from where a server or a chat that runs now or later maps them at once. Loads
    no base.

    \b
    edgelora warm medical-faq sql
    """
    from edgelora.cli.support.progress import progress_bars
    from edgelora.store.adapters.prewarm import warm as warm_one

    with progress_bars() as bars:
        library = app.open_library(bars)
        record = library.bases.get(base) if base else library.bases.current()
        specs = list(dict.fromkeys(names))
        for name in specs:
            library.store.resolve(name)  # all of them are known, or nothing is done
        done = [warm_one(library.store, name, record, progress=bars) for name in specs]
    if as_json:
        emit_json([_fields(prewarmed, record.name) for prewarmed in done])
    for prewarmed in () if as_json else done:
        note(_told(prewarmed, record.name))


def _told(one: Prewarmed, base: str) -> str:
    from edgelora_models.storage import size_text

    converted = f"converted for {base} in {one.convert_seconds:.2f} s, then " if one.converted else ""
    return f"{one.ref.name}@{one.number}: {converted}{size_text(one.nbytes)} read in {one.read_seconds:.3f} s."


def _fields(one: Prewarmed, base: str) -> dict[str, Any]:
    return {
        "name": one.ref.name,
        "version": one.number,
        "digest": one.ref.version,
        "base": base,
        "path": str(one.ref.path),
        "bytes": one.nbytes,
        "converted": one.converted,
        "convert_seconds": one.convert_seconds,
        "read_seconds": one.read_seconds,
    }
