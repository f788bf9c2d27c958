"""`edgelora base`: the base models on this machine, and the chosen one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from edgelora.cli.commands.base_convert import convert
from edgelora.cli.group import Verbs
from edgelora.cli.support.app import App
from edgelora.cli.support.options import base_names, catalogue_names, json_option
from edgelora.cli.support.output import emit_json, emit_table, hint, note

if TYPE_CHECKING:
    from edgelora.store.bases.record import BaseRecord


@click.group(cls=Verbs, short_help="List, add, pull and choose bases.")
def base() -> None:
    """Manage base models. A base is the large model that stays in memory while adapters come and go.

    One base is the chosen one; `run` and `serve` load it.
    """


@base.command(short_help="List the installed bases.")
@json_option
@click.pass_obj
def ls(app: App, as_json: bool) -> None:
    """List the installed bases. A * marks the chosen one."""
    library = app.open_library()
    records, chosen = library.bases.list(), library.bases.chosen()
    if as_json:
        emit_json([summary(record, chosen) for record in records])
        return
    if records:
        _table(records, chosen)
    _note_catalogue({record.name for record in records})


@base.command(short_help="Register a model that is already on disk.")
@click.argument("path", metavar="PATH", type=click.Path(path_type=Path))
@click.option("-n", "--name", metavar="NAME", help="The base's name.  [default: the file's name]")
@click.option(
    "--is",
    "model",
    metavar="HF-ID",
    help="The model's name on the Hugging Face hub, such as meta-llama/Llama-3.1-8B-Instruct. Adapters that were "
    "trained on another model then get a warning.",
)
@json_option
@click.pass_obj
def add(app: App, path: Path, name: str | None, model: str | None, as_json: bool) -> None:
    """Register the Llama model at PATH, a GGUF file or an MLX folder. It is not copied, so leave it in place."""
    bases = app.open_library().bases
    record = bases.add(path, name, model=model)
    if as_json:
        emit_json(summary(record, bases.chosen()))
        return
    note(f"Added {record.name} ({record.format}, {record.quantization}, context {record.context_length}).")
    hint(f"Choose it: edgelora base use {record.name}")


base.add_command(convert)


@base.command(short_help="Download a base.")
@click.argument("name", metavar="NAME", shell_complete=catalogue_names)
@click.option(
    "--format", type=click.Choice(["gguf", "mlx"]), default="gguf", show_default=True, help="The format to download."
)
@json_option
@click.pass_obj
def pull(app: App, name: str, format: Literal["gguf", "mlx"], as_json: bool) -> None:
    """Download a base that `edgelora base ls` offers, or a Hugging Face repository ORG/NAME[@REVISION].

    An interrupted download resumes where it stopped.
    """
    from edgelora.cli.support.progress import progress_bars
    from edgelora.store.bases.pull import pull as pull_base

    settings = app.settings()
    if not settings.offline:
        _note_download(name, format)
    try:
        with progress_bars() as bars:
            record = pull_base(
                name, format=format, directories=settings.directories, offline=settings.offline, progress=bars
            )
    except KeyboardInterrupt:
        note("Stopped. The downloaded part is kept; run the same command to resume.")
        raise
    if as_json:
        emit_json(summary(record, app.open_library().bases.chosen()))
        return
    note(f"Pulled {record.name}.")
    hint(f"Choose it: edgelora base use {record.name}")


@base.command(short_help="Choose the base to load.")
@click.argument("name", metavar="NAME", shell_complete=base_names)
@click.pass_obj
def use(app: App, name: str) -> None:
    """Choose the base that `run` and `serve` load from now on."""
    record = app.open_library().bases.use(name)
    note(f"{record.name} is the chosen base.")


@base.command(short_help="Remove a base.")
@click.argument("name", metavar="NAME", shell_complete=base_names)
@click.pass_obj
def rm(app: App, name: str) -> None:
    """Remove the base NAME. Downloaded files are deleted; a model that was added stays on disk."""
    record = app.open_library().remove_base(name)
    left = f" {record.location} stays on disk." if record.path.exists() else ""
    note(f"Removed {record.name}.{left}")


def _note_download(name: str, format: Literal["gguf", "mlx"]) -> None:
    """Print what will be downloaded, from where, its size and its licence."""
    from edgelora.core.errors import NotFound
    from edgelora_models import catalogue
    from edgelora_models.storage import size_text

    try:
        entry = catalogue.find(name)
    except NotFound:
        return  # a repository outside the catalogue, or a name that `pull` will refuse
    build = entry.build(format)
    note(f"Downloading {entry.title} ({build.quantization}, {size_text(build.nbytes)}) from {build.repository}.")
    hint(f"Licence: {entry.licence}")


def _note_catalogue(installed: set[str]) -> None:
    from edgelora_models import catalogue
    from edgelora_models.storage import size_text

    for entry in catalogue.ENTRIES:
        if entry.name not in installed:
            hint(f"Available: {entry.name} ({size_text(entry.build('gguf').nbytes)}): edgelora base pull {entry.name}")


def summary(record: BaseRecord, chosen: str | None) -> dict[str, Any]:
    return {
        "name": record.name,
        "chosen": record.name == chosen,
        "format": record.format,
        "quantization": record.quantization,
        "context_length": record.context_length,
        "bytes": record.nbytes,
        "location": record.location,
        "origin": record.origin,
        "aliases": list(record.aliases),
        "fingerprint": record.identity.fingerprint.digest,
    }


def _table(records: tuple[BaseRecord, ...], chosen: str | None) -> None:
    from edgelora_models.storage import size_text

    rows = [
        (
            "*" if record.name == chosen else "",
            record.name,
            record.format,
            record.quantization,
            str(record.context_length),
            size_text(record.nbytes),
            record.origin.partition("@")[0],
        )
        for record in records
    ]
    emit_table(("", "NAME", "FORMAT", "QUANTIZATION", "CONTEXT", "SIZE", "ORIGIN"), rows, right=frozenset({4, 5}))
