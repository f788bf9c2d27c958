"""`edgelora tune`: measure the fastest settings on this machine and store them for later starts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from edgelora.cli.support.app import App
from edgelora.cli.support.options import base_option, json_option

if TYPE_CHECKING:
    from edgelora.runtime.tuning.record import Tuning
    from edgelora.store.bases.record import BaseRecord


@click.command(short_help="Measure the fastest settings on this machine.")
@base_option
@click.option("--show", is_flag=True, help="Show the stored result without measuring.")
@click.option("--clear", is_flag=True, help="Delete the stored result.")
@json_option
@click.pass_obj
def tune(app: App, base: str | None, show: bool, clear: bool, as_json: bool) -> None:
    """Measure how many threads are fastest for a base on this machine, and whether repacking its weights pays.

    Later starts use the result unless --threads, --weights or their variables override it. This takes seconds for a
    small base and minutes for a large one; leave the machine idle meanwhile. A setting is used only if it is reliably
    faster than the default.
    """
    from edgelora.core.errors import UsageError
    from edgelora.runtime.tuning.record import Tunings

    if show and clear:
        raise UsageError("show_or_clear", "--show and --clear cannot be combined.", "Give one of them.")
    library = app.open_library()
    record = library.bases.get(base) if base else library.bases.current()
    tunings = Tunings(library.settings.directories)
    if clear:
        _clear(tunings.clear(record), record, as_json)
    elif show:
        _show(tunings.get(record), record, as_json)
    else:
        tuning = _measure(app, record.check())
        tunings.put(record, tuning)
        _show(tuning, record, as_json)


def _measure(app: App, record: BaseRecord) -> Tuning:
    from edgelora.cli.support.progress import progress_bars
    from edgelora.runtime.tuning.measure import measure

    with progress_bars() as bars:
        return measure(record, app.settings(), bars)


def _show(tuning: Tuning | None, record: BaseRecord, as_json: bool) -> None:
    from edgelora.cli.support.output import emit_fields, emit_json, note

    if as_json:
        emit_json(None if tuning is None else _as_json(tuning))
    elif tuning is None:
        note(f"Nothing was measured for {record.name}. `edgelora tune` measures it.")
    else:
        emit_fields(_fields(tuning))


def _clear(existed: bool, record: BaseRecord, as_json: bool) -> None:
    from edgelora.cli.support.output import emit_json, note

    if as_json:
        emit_json({"base": record.name, "cleared": existed})
    else:
        note(f"Deleted the result for {record.name}." if existed else f"Nothing was measured for {record.name}.")


def _as_json(tuning: Tuning) -> Any:
    import msgspec

    from edgelora.runtime.tuning.record import conditions

    return msgspec.to_builtins(tuning) | {"current": tuning.conditions == conditions()}


def _fields(tuning: Tuning) -> list[tuple[str, str]]:
    from edgelora.cli.support.output import human_age
    from edgelora.runtime.tuning.record import conditions
    from edgelora.runtime.tuning.search import BATCH_ROWS, PROMPT_ROWS, Workload

    times = {work: f"{1e3 * seconds:,.1f} ms" for work, seconds in tuning.seconds.items()}
    where = tuning.conditions
    stale = "" if where == conditions() else "; not used, because the machine or a library has changed: tune again"
    busy = f", others using {tuning.others:.0%} of the machine" if tuning.others >= 0.01 else ""
    return [
        ("base", tuning.base),
        ("machine", f"{where.processor}, {where.cores} cores, {where.processors} processors"),
        *((finding.question, str(finding)) for finding in tuning.findings),
        *([("weights", "not measured: repacking needs more memory than is free")] if tuning.weights is None else []),
        ("one token", times[Workload.ONE]),
        (f"{BATCH_ROWS} side by side", times[Workload.BATCH]),
        (f"prompt of {PROMPT_ROWS}", times[Workload.PROMPT]),
        ("measured", f"{human_age(time.time() - tuning.created)}{busy}{stale}"),
    ]
