"""`edgelora tune`: measure what is fastest here, and use it from then on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from edgelora.cli.support.app import App
from edgelora.cli.support.options import base_option, json_option

if TYPE_CHECKING:
    from edgelora.runtime.tuning.record import Tuning
    from edgelora.store.bases.record import BaseRecord


@click.command(short_help="Measure what is fastest on this machine.")
@base_option
@click.option("--show", is_flag=True, help="Only show what was measured.")
@click.option("--clear", is_flag=True, help="Forget what was measured.")
@json_option
@click.pass_obj
def tune(app: App, base: str | None, show: bool, clear: bool, as_json: bool) -> None:
    """Measure how many threads are fastest for this base on this machine, and whether to repack its weights.

    Every start uses the result, unless --threads, --weights or their variables say otherwise. Takes seconds for a
    small base and some minutes for a large one; let the machine rest meanwhile. A setting that is not surely faster
    than the default is not taken.
    """
    from edgelora.core.errors import UsageError
    from edgelora.runtime.tuning.record import Tunings

    if show and clear:
        raise UsageError("show_or_clear", "--show and --clear exclude each other.", "Give one of them.")
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
        note(f"Nothing was measured for {record.name}: `edgelora tune` does it.")
    else:
        emit_fields(_fields(tuning))


def _clear(known: bool, record: BaseRecord, as_json: bool) -> None:
    from edgelora.cli.support.output import emit_json, note

    if as_json:
        emit_json({"base": record.name, "cleared": known})
    else:
        note(f"Forgotten for {record.name}." if known else f"Nothing was measured for {record.name}.")


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
    stale = "" if where == conditions() else "; not used, since the machine or a library has changed: tune again"
    busy = f", others using {tuning.others:.0%} of the machine" if tuning.others >= 0.01 else ""
    return [
        ("base", tuning.base),
        ("machine", f"{where.processor}, {where.cores} cores, {where.processors} processors"),
        *((finding.question, str(finding)) for finding in tuning.findings),
        *([("weights", "not measured: repacked ones need more memory than is free")] if tuning.weights is None else []),
        ("one token", times[Workload.ONE]),
        (f"{BATCH_ROWS} side by side", times[Workload.BATCH]),
        (f"prompt of {PROMPT_ROWS}", times[Workload.PROMPT]),
        ("measured", f"{human_age(time.time() - tuning.created)}{busy}{stale}"),
    ]
