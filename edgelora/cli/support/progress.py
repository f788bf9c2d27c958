"""Progress on a terminal: bars for work that reports, a spinner for work that does not.

They are drawn on stderr, only on a terminal, and leave no trace when they end.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgelora.cli.support.output import interactive

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import Task, TaskID

    from edgelora.core.progress import Progress

PATIENCE = 0.4
"""The seconds before a spinner is shown."""

BYTES = 1 << 20
"""Totals of at least this are shown as sizes in bytes with a rate."""


@contextmanager
def progress_bars() -> Iterator[Progress | None]:
    """Yield a `Progress` that draws a bar for each label, or None off a terminal."""
    if not interactive(sys.stderr):
        yield None
        return
    bars = Bars()
    try:
        yield bars
    finally:
        bars.close()


class Bars:
    """Progress bars by label, added when first reported and removed when done."""

    def __init__(self) -> None:
        self._display: RichProgress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def __call__(self, label: str, done: int, total: int) -> None:
        with self._lock:
            if total and done >= total:
                self._end(label)
            else:
                self._show(label, done, total or None)

    def close(self) -> None:
        with self._lock:
            if self._display is not None:
                self._display.stop()
                self._display = None

    def _show(self, label: str, done: int, total: int | None) -> None:
        if self._display is None:
            self._display = _display()
            self._display.start()
        if label not in self._tasks:
            self._tasks[label] = self._display.add_task(label, total=total)
        self._display.update(self._tasks[label], completed=done, total=total)

    def _end(self, label: str) -> None:
        task = self._tasks.pop(label, None)
        if self._display is not None and task is not None:
            self._display.remove_task(task)


def _display() -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn
    from rich.table import Column
    from rich.text import Text

    class Amount(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(amount(task.completed, task.total, task.speed), style="dim")

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        Amount(table_column=Column(no_wrap=True)),
        console=Console(stderr=True),
        transient=True,
    )


def amount(done: float, total: float | None, speed: float | None) -> str:
    """Return the text behind a bar: sizes, rate and time left for bytes, otherwise a percentage."""
    from edgelora_models.storage import size_text

    if total is None:
        return size_text(int(done)) if done >= BYTES else ""
    if total < BYTES:
        return f"{done / total:.0%}"
    text = f"{size_text(int(done))} / {size_text(int(total))}"
    if not speed:
        return text
    left = int((total - done) / speed)
    return f"{text}, {size_text(int(speed))}/s, {left // 60}:{left % 60:02d} left"


@contextmanager
def spinner(label: str) -> Iterator[Spinner | None]:
    """Show a spinner with `label` until the block ends or `stop` is called, unless that is soon."""
    if not interactive(sys.stderr):
        yield None
        return
    turning = Spinner(label)
    try:
        yield turning
    finally:
        turning.stop()


class Spinner:
    """A spinner on its own thread. `stop` returns when its line is clear, and may be called twice."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._turn, name="edgelora-spinner", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def _turn(self) -> None:
        if self._done.wait(PATIENCE):
            return
        from rich.console import Console

        with Console(stderr=True).status(self._label, spinner_style=""):
            self._done.wait()
