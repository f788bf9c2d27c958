"""Progress: drawn on a terminal, nothing off one."""

from __future__ import annotations

import sys

import pytest

from edgelora.cli.support.progress import amount, progress_bars, spinner
from tests.support.cli import Terminal


def on_terminal(monkeypatch: pytest.MonkeyPatch, *, term: str = "xterm") -> Terminal:
    screen = Terminal()
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys, "stderr", screen)  # here and not in a fixture: pytest sets it anew for the test itself
    return screen


def test_nothing_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Off a terminal there is no progress to report to, and nothing is drawn."""
    with progress_bars() as bars, spinner("Thinking") as turning:
        assert bars is None and turning is None
    assert capsys.readouterr() == ("", "")


def test_nothing_on_a_dumb_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that cannot redraw gets no bars."""
    on_terminal(monkeypatch, term="dumb")
    with progress_bars() as bars:
        assert bars is None


def test_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar shows its label, and more than one can stand at once."""
    terminal = on_terminal(monkeypatch)
    with progress_bars() as bars:
        assert bars is not None
        bars("Converting a", 1, 4)
        bars("Loading b", 0, 0)
        bars("Converting a", 4, 4)
    assert "Converting a" in terminal.getvalue() and "Loading b" in terminal.getvalue()


def test_work_that_is_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that is done when it is first reported draws nothing."""
    terminal = on_terminal(monkeypatch)
    with progress_bars() as bars:
        assert bars is not None
        bars("Loading", 1, 1)
    assert terminal.getvalue() == ""


def test_quick_work_has_no_spinner(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spinner that is stopped before its time has drawn nothing; stopping again is safe."""
    terminal = on_terminal(monkeypatch)
    with spinner("Thinking") as turning:
        assert turning is not None
        turning.stop()
        turning.stop()
    assert terminal.getvalue() == ""


@pytest.mark.parametrize(
    ("done", "total", "speed", "text"),
    [
        (0, None, None, ""),
        (3, 4, None, "75%"),
        (5e6, None, None, "5.0 MB"),
        (1e9, 4e9, None, "1.0 GB / 4.0 GB"),
        (1e9, 4e9, 1e7, "1.0 GB / 4.0 GB, 10.0 MB/s, 5:00 left"),
    ],
)
def test_amounts(done: float, total: float | None, speed: float | None, text: str) -> None:
    """Large totals are bytes, with a rate and the time left; small ones are counted in percent."""
    assert amount(done, total, speed) == text
