"""Output for people: tables, ages, colour."""

from __future__ import annotations

import io

import pytest

from edgelora.cli.support.output import emit_fields, emit_table, human_age, interactive, paint
from tests.support.cli import Terminal


def test_table_is_aligned_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """Columns are aligned, numbers to the right, nothing is cut and no line ends in blanks."""
    emit_table(["NAME", "SIZE", "BASE"], [["a", "9 kB", "x" * 200], ["longer", "12 MB", "y"]], right=frozenset({1}))
    assert capsys.readouterr().out.splitlines() == [
        "NAME     SIZE  BASE",
        f"a        9 kB  {'x' * 200}",
        "longer  12 MB  y",
    ]


def test_fields(capsys: pytest.CaptureFixture[str]) -> None:
    """Each field has a line, with the values aligned."""
    emit_fields([("name", "a"), ("rank", "16")])
    assert capsys.readouterr().out == "name  a\nrank  16\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "just now"),
        (59, "just now"),
        (60, "1 minute ago"),
        (7300, "2 hours ago"),
        (86400 * 3, "3 days ago"),
    ],
)
def test_age(seconds: float, text: str) -> None:
    """An age is told in its largest unit; a clock that was set back gives no negative one."""
    assert human_age(seconds) == text


def test_colour_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Colour needs a terminal that can show it, and NO_COLOR forbids it."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b" in paint("x", to=Terminal(), bold=True)
    assert paint("x", to=io.StringIO(), bold=True) == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("x", to=Terminal(), bold=True) == "x"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not interactive(Terminal())
