"""`edgelora prefix`: system prompts whose KV is stored on disk, so that conversations need not compute them again."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgelora.cli.group import Verbs
from edgelora.cli.support.app import App
from edgelora.cli.support.options import (
    adapter_names,
    base_option,
    context_option,
    json_option,
    machine_options,
    prefix_names,
)
from edgelora.cli.support.output import emit_json, emit_table, hint, human_age, note
from edgelora.cli.support.overrides import MachineOptions

if TYPE_CHECKING:
    from edgelora.store.library import Library
    from edgelora.store.prefixes.origin import Origin
    from edgelora.store.prefixes.store import Entry


@click.group(cls=Verbs, short_help="Keep computed system prompts on disk.")
def prefix() -> None:
    """Manage system prompts whose KV is stored on disk, so that they need not be computed again after a start.

    A system prompt that is used twice is stored automatically, within EDGELORA_PREFIX_DISK. A named one stays until it
    is removed.
    """


@prefix.command(short_help="Compute a system prompt and keep it.")
@click.argument("adapter", metavar="ADAPTER|BASE", shell_complete=adapter_names)
@click.option(
    "-s",
    "--system",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="A UTF-8 text file with the system prompt.",
)
@click.option("-n", "--name", metavar="NAME", help="The prefix's name.  [default: the adapter's and the file's name]")
@json_option
@base_option
@context_option
@machine_options
@click.pass_obj
def add(
    app: App,
    adapter: str,
    system: Path,
    name: str | None,
    as_json: bool,
    base: str | None,
    context: int | None,
    machine: MachineOptions,
) -> None:
    """Compute the system prompt in FILE with ADAPTER (or with the BASE alone), and store its KV on disk.

    Conversations that begin with this system prompt then start from the stored KV. It holds for this version of the
    adapter, this base and this installation. The same name again replaces it. A running server needs no restart.

    \b
    edgelora prefix add medical-faq --system clinic.txt
    """
    from edgelora.cli.support.progress import progress_bars
    from edgelora.core.files import check_name, suggest_name
    from edgelora_models.storage import size_text

    text = read_text(system)
    chosen = suggest_name(f"{adapter}-{system.stem}", kind="prefix") if name is None else name
    check_name(chosen, kind="prefix")
    settings = app.settings(context=context, machine=machine)
    with progress_bars() as bars, app.service(settings, base=base, progress=bars) as service:
        stored = service.add_prefix(text, adapters=service.compose(adapter), name=chosen, progress=bars)
        nbytes = stored.path.stat().st_size
    if as_json:
        emit_json({"name": chosen, "tokens": stored.length, "bytes": nbytes, "path": str(stored.path)})
        return
    note(f"Kept {chosen}: {stored.length} tokens, {size_text(nbytes)}.")


@prefix.command(short_help="List the kept system prompts.")
@json_option
@click.pass_obj
def ls(app: App, as_json: bool) -> None:
    """List the stored system prompts: named ones, then automatic ones, the most recently used first."""
    library = app.open_library()
    entries = library.prefixes().entries()
    labels = names(library)
    if as_json:
        emit_json([summary(entry, labels) for entry in entries])
    elif entries:
        _table(entries, labels)
        _note_budget(entries, library)
    else:
        note("No system prompt is stored. `edgelora prefix add ADAPTER --system FILE` stores one.")


@prefix.command(short_help="Remove kept system prompts.")
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=prefix_names)
@click.option("--automatic", is_flag=True, help="Remove all that were stored automatically.")
@click.pass_obj
def rm(app: App, names: tuple[str, ...], automatic: bool) -> None:
    """Remove the stored system prompt NAME. It is computed again when it is next used."""
    from edgelora.core.errors import NotFound, UsageError

    if not names and not automatic:
        raise UsageError("no_name", "No name was given.", "Give a NAME, or --automatic.")
    prefixes = app.open_library().prefixes()
    existing = {entry.held.stored.name for entry in prefixes.entries()} - {None}
    for name in dict.fromkeys(names):  # an unknown name raises before anything is removed
        if name not in existing:
            raise NotFound("prefix", name, [other for other in existing if other], "`edgelora prefix ls` lists them.")
    for name in dict.fromkeys(names):
        prefixes.remove(name)
        note(f"Removed {name}.")
    if automatic:
        note(f"Removed {prefixes.remove_automatic()} automatic ones.")


def read_text(path: Path) -> str:
    """Return the text of a file. Raises UsageError if it is empty or not UTF-8."""
    from edgelora.core.errors import UsageError

    try:
        text = path.read_bytes().decode("utf-8-sig").strip()
    except OSError as error:
        raise UsageError("no_such_path", f"{path} cannot be read: {error.strerror}.", "Name a text file.") from error
    except UnicodeDecodeError as error:
        raise UsageError("prompt_not_text", f"{path} is not UTF-8 text.", "Name a text file.") from error
    if not text:
        raise UsageError("no_prompt", f"{path} is empty.", "Write the system prompt into it.")
    return text


def names(library: Library) -> dict[str, str]:
    """Return the names of the digests of adapter versions and of bases' files."""
    from edgelora.store.prefixes.base_digest import BaseDigests

    contents = BaseDigests(library.prefixes().layout.bases)
    labels = {
        version.digest: f"{manifest.name}@{version.number}"
        for manifest in library.store.list()
        for version in manifest.versions
    }
    for record in library.bases.list():
        digest = contents.known(record.path)
        if digest is not None:
            labels[digest] = record.name
    return labels


def summary(entry: Entry, labels: dict[str, str]) -> dict[str, Any]:
    """Return a stored prefix as JSON values; names that are no longer installed are null."""
    held, origin = entry.held, entry.origin
    return {
        "name": held.stored.name,
        "base": labels.get(origin.base),
        "adapters": [
            {
                "name": labels.get(adapter.version),
                "digest": adapter.version,
                "weight": adapter.weight,
                "start": adapter.start,
            }
            for adapter in origin.adapters
        ],
        "tokens": held.stored.length,
        "bytes": held.nbytes,
        "used": datetime.fromtimestamp(held.used, UTC).isoformat(timespec="seconds"),
        "path": str(held.stored.path),
    }


def _table(entries: list[Entry], labels: dict[str, str]) -> None:
    from edgelora_models.storage import size_text

    now = time.time()
    rows = [
        (
            entry.held.stored.name or "(automatic)",
            _adapters(entry.origin, labels),
            labels.get(entry.origin.base, "(not installed)"),
            str(entry.held.stored.length),
            size_text(entry.held.nbytes),
            human_age(now - entry.held.used),
        )
        for entry in entries
    ]
    emit_table(("NAME", "ADAPTER", "BASE", "TOKENS", "SIZE", "USED"), rows, right=frozenset({3, 4}))


def _adapters(origin: Origin, labels: dict[str, str]) -> str:
    parts = [
        labels.get(adapter.version, adapter.version[:12]) + ("" if adapter.weight == 1.0 else f"*{adapter.weight:g}")
        for adapter in origin.adapters
    ]
    return " + ".join(parts) or "none"


def _note_budget(entries: list[Entry], library: Library) -> None:
    from edgelora_models.storage import size_text

    used = sum(entry.held.nbytes for entry in entries)
    hint(f"{size_text(used)} of {size_text(library.settings.prefix_disk_bytes)} (EDGELORA_PREFIX_DISK).")
