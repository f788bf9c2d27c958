"""`edgelora doctor`: check that everything works on this machine, and say how to repair what does not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from edgelora.cli.support.app import App
from edgelora.cli.support.options import json_option

if TYPE_CHECKING:
    from edgelora.cli.commands.doctor_checks import Check
    from edgelora.core.config import Settings
    from edgelora.store.library import Library

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command(short_help="Check that everything works here.")
@json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check this machine, the store, the base and the engine. The exit code is 1 if a check fails.

    Nothing is sent over the network. The output is meant to be pasted into a bug report.
    """
    from edgelora.cli.commands.doctor_checks import Level
    from edgelora.cli.support.output import emit_json, note

    done: list[Check] = []
    for check in all_checks(ctx.ensure_object(App)):
        done.append(check)
        if not as_json:
            show(check)
    failures = sum(check.status is Level.FAIL for check in done)
    if as_json:
        emit_json({"healthy": not failures, "checks": [check.as_json() for check in done]})
    else:
        note(f"{failures} of {len(done)} checks failed." if failures else "All is well.")
    ctx.exit(1 if failures else 0)


def all_checks(app: App) -> Iterator[Check]:
    """Yield the result of every check. Checks that depend on a failed one are skipped."""
    from edgelora.cli.commands import doctor_checks

    settings = app.settings()
    yield from doctor_checks.machine_checks()
    yield from doctor_checks.directory_checks(settings)
    yield doctor_checks.network(settings)
    yield doctor_checks.port()
    try:
        library = _open_library(app, settings)
    except Exception as error:  # doctor reports every error
        yield doctor_checks.failed("store", error)
        return
    yield from doctor_checks.library_checks(library)
    yield _engine(app, settings)


def show(check: Check) -> None:
    from edgelora.cli.support.output import emit, paint

    mark = paint(check.status.ljust(4), to=sys.stdout, fg=COLOURS[check.status], bold=True)
    emit(f"{mark}  {check.name.ljust(16)}  {check.detail}")
    if check.remedy:
        emit(f"{'':24}{check.remedy}")


def _open_library(app: App, settings: Settings) -> Library:
    from edgelora.cli.support.progress import progress_bars

    with progress_bars() as bars:
        return app.library(settings, progress=bars)


def _engine(app: App, settings: Settings) -> Check:
    """Generate a token, which uses the base, its template, the engine and the sampler."""
    from edgelora.cli.commands import doctor_checks
    from edgelora.cli.support.answer import follow
    from edgelora.cli.support.progress import progress_bars
    from edgelora.core.sampling_params import SamplingParams
    from edgelora.text.prompt import Message

    try:
        with progress_bars() as bars, app.service(settings, base=None, progress=bars) as service:
            sampling = SamplingParams(max_tokens=1)
            finished = follow(service.chat([Message("user", "Hello")], sampling=sampling), lambda _: None)
            peak = doctor_checks.peak_text(service.stats())
    except Exception as error:  # as above
        return doctor_checks.failed("engine", error)
    milliseconds = 1000 * (finished.timings.prefill + finished.timings.decode)
    return doctor_checks.ok(
        "engine", f"{finished.usage.prompt_tokens} tokens in, one out, in {milliseconds:.0f} ms{peak}"
    )
