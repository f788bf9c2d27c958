"""`edgelora prefix`: system prompts whose KV is kept on disk, so that no conversation computes them again."""

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


@click.group(cls=Verbs, short_help="Keep system prompts computed on disk.")
def prefix() -> None:
    """System prompts that are kept computed on disk: the first answer after a start need not wait for them.

    A system prompt that is used twice is kept by itself, as long as there is room (EDGELORA_PREFIX_DISK). One that has
    a name stays until it is removed.
    """


@prefix.command(short_help="Compute a system prompt and keep it.")
@click.argument("adapter", metavar="ADAPTER|BASE", shell_complete=adapter_names)
@click.option(
    "-s",
    "--system",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The system prompt, a UTF-8 text file.",
)
@click.option("-n", "--name", metavar="NAME", help="What to call it.  [default: the adapter's and the file's name]")
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
    """Compute the system prompt in FILE with ADAPTER (or with the BASE alone), and keep it on disk.

    From then on every conversation that begins with it goes on from there: in this version of the adapter, on this
    base, with this installation. The same name again replaces it. A server that runs finds it without a restart.

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
    """List what is kept on disk: what has a name, then what was kept by itself, latest used first."""
    library = app.open_library()
    entries = library.prefixes().entries()
    version_names = names(library)
    if as_json:
        emit_json([summary(entry, version_names) for entry in entries])
    elif entries:
        _table(entries, version_names)
        _note_budget(entries, library)
    else:
        note("Nothing is kept. `edgelora prefix add ADAPTER --system FILE` keeps a system prompt.")


@prefix.command(short_help="Remove kept system prompts.")
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=prefix_names)
@click.option("--automatic", is_flag=True, help="Remove all that was kept by itself.")
@click.pass_obj
def rm(app: App, names: tuple[str, ...], automatic: bool) -> None:
    """Remove the kept system prompt NAME. Nothing is lost but the time to compute it."""
    from edgelora.core.errors import NotFound, UsageError

    if not names and not automatic:
        raise UsageError("no_name", "Nothing was named.", "Give a NAME, or --automatic.")
    prefixes = app.open_library().prefixes()
    kept = {entry.held.stored.name for entry in prefixes.entries()} - {None}
    for name in dict.fromkeys(names):  # all of them are known, or nothing is removed
        if name not in kept:
            raise NotFound(
                "prefix",
                name,
                [kept_name for kept_name in kept if kept_name],
                "`edgelora prefix ls` shows what is kept.",
            )
    for name in dict.fromkeys(names):
        prefixes.remove(name)
        note(f"Removed {name}.")
    if automatic:
        note(f"Removed {prefixes.remove_automatic()} that were kept by themselves.")


def read_text(path: Path) -> str:
    """Raises UsageError where it is no text, or none at all."""
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
    """Return what people call the digests of adapter versions and of bases' files."""
    from edgelora.store.prefixes.base_digest import BaseDigests

    contents = BaseDigests(library.prefixes().layout.bases)
    by_digest = {
        version.digest: f"{manifest.name}@{version.number}"
        for manifest in library.store.list()
        for version in manifest.versions
    }
    for record in library.bases.list():
        digest = contents.known(record.path)
        if digest is not None:
            by_digest[digest] = record.name
    return by_digest


def summary(entry: Entry, known: dict[str, str]) -> dict[str, Any]:
    """Return a kept prefix for programs. Sizes in bytes, times in ISO 8601; null for what is not installed any more."""
    held, origin = entry.held, entry.origin
    return {
        "name": held.stored.name,
        "base": known.get(origin.base),
        "adapters": [
            {
                "name": known.get(adapter.version),
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


def _table(entries: list[Entry], known: dict[str, str]) -> None:
    from edgelora_models.storage import size_text

    now = time.time()
    rows = [
        (
            entry.held.stored.name or "(by itself)",
            _adapters(entry.origin, known),
            known.get(entry.origin.base, "(not installed)"),
            str(entry.held.stored.length),
            size_text(entry.held.nbytes),
            human_age(now - entry.held.used),
        )
        for entry in entries
    ]
    emit_table(("NAME", "ADAPTER", "BASE", "TOKENS", "SIZE", "USED"), rows, right=frozenset({3, 4}))


def _adapters(origin: Origin, known: dict[str, str]) -> str:
    parts = [
        known.get(adapter.version, adapter.version[:12]) + ("" if adapter.weight == 1.0 else f"*{adapter.weight:g}")
        for adapter in origin.adapters
    ]
    return " + ".join(parts) or "none"


def _note_budget(entries: list[Entry], library: Library) -> None:
    from edgelora_models.storage import size_text

    used = sum(entry.held.nbytes for entry in entries)
    hint(f"{size_text(used)} of {size_text(library.settings.prefix_disk_bytes)} (EDGELORA_PREFIX_DISK).")
