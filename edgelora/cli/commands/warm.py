"""`edgelora warm`: prepare adapters before their first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgelora.cli.support.app import App
from edgelora.cli.support.options import adapter_names, base_option, json_option
from edgelora.cli.support.output import emit_json, note

if TYPE_CHECKING:
    from edgelora.store.adapters.prewarm import Prewarmed


@click.command(short_help="Prepare adapters for their first use.")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=adapter_names)
@base_option
@json_option
@click.pass_obj
def warm(app: App, names: tuple[str, ...], base: str | None, as_json: bool) -> None:
    """Prepare the adapters NAME: convert them for the base if needed, and read them into the system's file cache.

    A server or a chat then maps them at once. No base is loaded.

    \b
    edgelora warm medical-faq sql
    """
    from edgelora.cli.support.progress import progress_bars
    from edgelora.store.adapters.prewarm import warm as prewarm

    with progress_bars() as bars:
        library = app.open_library(bars)
        record = library.bases.get(base) if base else library.bases.current()
        unique = list(dict.fromkeys(names))
        for name in unique:
            library.store.resolve(name)  # an unknown name raises before anything is done
        done = [prewarm(library.store, name, record, progress=bars) for name in unique]
    if as_json:
        emit_json([_fields(result, record.name) for result in done])
        return
    for result in done:
        note(_summary(result, record.name))


def _summary(result: Prewarmed, base: str) -> str:
    from edgelora_models.storage import size_text

    converted = f"converted for {base} in {result.convert_seconds:.2f} s, then " if result.converted else ""
    size = size_text(result.nbytes)
    return f"{result.ref.name}@{result.number}: {converted}{size} read in {result.read_seconds:.3f} s."


def _fields(result: Prewarmed, base: str) -> dict[str, Any]:
    return {
        "name": result.ref.name,
        "version": result.number,
        "digest": result.ref.version,
        "base": base,
        "path": str(result.ref.path),
        "bytes": result.nbytes,
        "converted": result.converted,
        "convert_seconds": result.convert_seconds,
        "read_seconds": result.read_seconds,
    }
