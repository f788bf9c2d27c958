"""Exceptions become a paragraph and an exit code."""

from __future__ import annotations

import json

import click
import pytest
from click.testing import CliRunner

from edgelora.cli.root import cli
from edgelora.cli.support.app import App
from edgelora.cli.support.failure import describe, report
from edgelora.core import errors

TREE = [
    (errors.UsageError("bad", "Wrong.", "Do it right."), 2),
    (errors.ContextTooLong(tokens=9, limit=4), 2),
    (errors.NotFound("adapter", "medcal", ["medical"]), 3),
    (errors.Offline("offline", "No network.", "Connect."), 4),
    (errors.AdapterCorrupt("corrupt", "Truncated.", "Copy it again."), 5),
    (errors.BaseError("missing", "No base.", "Pull one."), 6),
    (errors.StorageError("no_space", "The disk is full.", "Free some."), 7),
    (errors.Busy("port_taken", "Taken.", "Take another."), 8),
    (errors.BackendError("failed", "It failed.", "Run doctor."), 9),
    (errors.Cancelled(), 130),
    (KeyboardInterrupt(), 130),
    (click.Abort(), 130),
    (click.UsageError("no"), 2),
    (ValueError("odd"), 1),
]


@pytest.mark.parametrize(("error", "code"), TREE)
def test_exit_codes(error: BaseException, code: int) -> None:
    """The exit code comes from the error's class."""
    assert describe(error).exit_code == code


def test_paragraph(capsys: pytest.CaptureFixture[str]) -> None:
    """`error:`, what happened and what to do, on one line of stderr; stdout stays empty."""
    assert report(errors.StorageError("no_space", "The disk is full.", "Free some."), as_json=False) == 7
    assert capsys.readouterr() == ("", "error: The disk is full. Free some.\n")


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    """With --json an error is one JSON object on stderr."""
    report(errors.NotFound("adapter", "medcal", ["medical"]), as_json=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert json.loads(err) == {
        "error": {
            "code": "adapter_not_found",
            "message": "There is no adapter named 'medcal'.",
            "remedy": "Did you mean 'medical'?",
        }
    }


def test_interrupt_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C prints no message and only ends the line."""
    assert report(KeyboardInterrupt(), as_json=False) == 130
    assert capsys.readouterr() == ("", "\n")


def test_unexpected_says_how_to_see_more(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception nobody foresaw is one line, and the whole traceback with EDGELORA_DEBUG."""
    monkeypatch.delenv("EDGELORA_DEBUG", raising=False)
    report(ValueError("odd"), as_json=False)
    quiet = capsys.readouterr().err
    assert quiet.count("\n") == 1
    assert "ValueError: odd" in quiet and "EDGELORA_DEBUG=1" in quiet
    monkeypatch.setenv("EDGELORA_DEBUG", "1")
    report(ValueError("odd"), as_json=False)
    assert capsys.readouterr().err == f"ValueError: odd\n{quiet}"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("rnu", "`edgelora run`"),
        ("list", "`edgelora ls`"),
        ("download", "`edgelora pull`"),
        ("chat", "`edgelora run`"),
        ("docter", "`edgelora doctor`"),
    ],
)
def test_mistyped_verb(typed: str, meant: str) -> None:
    """A verb that is not there is answered with the nearest ones, or with what the habit means here."""
    done = CliRunner().invoke(cli, [typed])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: There is no verb '{typed}'. Did you mean {meant}")
    assert done.stdout == ""


def test_mistyped_verb_below_base() -> None:
    """Near names work in the verbs below `base` too."""
    done = CliRunner().invoke(cli, ["base", "list"])
    assert (done.exit_code, "`edgelora base ls`" in done.stderr) == (2, True)


def test_mistyped_option() -> None:
    """A mistyped option is answered with the nearest one."""
    done = CliRunner().invoke(cli, ["run", "--adaptr", "x", "hello"])
    assert done.exit_code == 2
    assert "--adapter" in done.stderr


def test_global_option_after_the_verb() -> None:
    """--offline behind the verb is answered with where it stands."""
    done = CliRunner().invoke(cli, ["ls", "--offline"])
    assert done.exit_code == 2
    assert "`edgelora --offline ls ...`" in done.stderr


def test_usage_errors_are_json_too() -> None:
    """--json holds for errors in the other options, wherever it stands."""
    done = CliRunner().invoke(cli, ["run", "hello", "--max-tokens", "0", "--json"])
    assert done.exit_code == 2
    assert json.loads(done.stderr)["error"]["code"] == "usage"


def test_bad_setting() -> None:
    """A bad variable in the environment is a usage error that names it."""
    done = CliRunner().invoke(cli, ["ls"], obj=App(environ={"EDGELORA_QUEUE": "many"}))
    assert done.exit_code == 2
    assert "EDGELORA_QUEUE" in done.stderr
