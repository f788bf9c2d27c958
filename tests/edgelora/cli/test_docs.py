"""docs/cli.md and the help texts cover everything that the command line takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from edgelora.cli.root import cli
from edgelora.core.errors import EdgeloraError

DOCS = (Path(__file__).parents[3] / "docs" / "cli.md").read_text(encoding="utf-8")


def every_command(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        ctx = click.Context(command, info_name=path)
        for name in command.list_commands(ctx):
            below = command.get_command(ctx, name)
            assert below is not None
            yield from every_command(below, f"{path} {name}")


COMMANDS = dict(every_command(cli, "edgelora"))


def section(heading: str) -> str:
    """The text below a heading, up to the next one of any level that names a verb, or of the same level."""
    match = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#+ edgelora|^## |\Z)", DOCS, re.MULTILINE | re.DOTALL)
    assert match, f"docs/cli.md has no section {heading!r}"
    return match[2]


@pytest.mark.parametrize("path", [path for path in COMMANDS if path != "edgelora"])
def test_verbs_are_documented(path: str) -> None:
    """Every verb has a section that names all its options, and help texts for itself and each of them."""
    command = COMMANDS[path]
    text = section(path)
    assert command.help and command.short_help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{path} {parameter.opts[-1]} has no help text"
            for name in parameter.opts:
                assert f"`{name}" in text, f"docs/cli.md does not mention {path} {name}"


def test_no_stale_options() -> None:
    """Every option of a verb in docs/cli.md exists."""
    for path, command in COMMANDS.items():
        if isinstance(command, click.Group):
            continue
        options = {name for parameter in command.params for name in parameter.opts}
        documented = set(re.findall(r"^\| (?:`-\w`, )?`(--[a-z-]+)", section(path), re.MULTILINE))
        assert documented <= options, path


def test_global_options() -> None:
    """The global options are described before the first verb."""
    opening = DOCS.partition("## edgelora run")[0]
    for parameter in cli.params:
        for name in parameter.opts:
            assert f"`{name}`" in opening


def exit_codes(error: type[EdgeloraError]) -> Iterator[int]:
    yield error.exit_code
    for below in error.__subclasses__():
        yield from exit_codes(below)


def test_exit_codes() -> None:
    """Every exit code an error can have stands in docs/cli.md and in `edgelora --help`."""
    epilog = cli.epilog or ""
    for code in {0, *exit_codes(EdgeloraError)}:
        assert re.search(rf"^\| {code} \|", section("Exit codes"), re.MULTILINE), code
        assert re.search(rf"^  {code} ", epilog, re.MULTILINE), code


def test_variables() -> None:
    """Every variable that settings are read from is in the table."""
    source = (Path(__file__).parents[3] / "edgelora" / "core" / "config.py").read_text(encoding="utf-8")
    for name in set(re.findall(r'"((?:EDGELORA|HF)_[A-Z_]+)"', source)):
        assert f"`{name}`" in section("Environment"), name
