"""click groups that load verbs on use, suggest near names for typing errors and report errors in one place."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

import click

from edgelora.cli.support.app import App

SYNONYMS = {
    "benchmark": "tune",
    "chat": "run",
    "check": "doctor",
    "delete": "rm",
    "download": "pull",
    "finetune": "train",
    "fuse": "merge",
    "generate": "run",
    "help": "--help",
    "import": "add",
    "info": "show",
    "install": "add",
    "list": "ls",
    "key": "keys",
    "load": "warm",
    "prefetch": "warm",
    "remove": "rm",
    "save": "export",
    "server": "serve",
    "start": "serve",
    "status": "ps",
    "token": "keys token",
    "top": "ps",
    "uninstall": "rm",
    "use": "base use",
    "version": "--version",
}
"""Verbs of other programs, and the verb that does the same here."""


class Verb(NamedTuple):
    """A verb whose module is imported when it is used."""

    home: str
    """The `module:attribute` of its command."""
    summary: str
    """Its line in the help, equal to the command's short help."""


class Verbs(click.Group):
    """A group whose verbs are imported on use and listed under headings."""

    def __init__(self, *args: Any, verbs: Mapping[str, Mapping[str, Verb]] | None = None, **kwargs: Any) -> None:
        """`verbs` maps headings to verbs by name."""
        super().__init__(*args, **kwargs)
        self.headings = {heading: dict(members) for heading, members in (verbs or {}).items()}
        self.lazy = {name: verb for members in self.headings.values() for name, verb in members.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.lazy, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self.lazy[cmd_name].home.partition(":")
        command = getattr(import_module(module), attribute)
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if not self.lazy:
            super().format_commands(ctx, formatter)
            return
        width = max(map(len, self.lazy))
        for heading, members in self.headings.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), verb.summary) for name, verb in members.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help())  # no arguments: show the help, which is not an error
            ctx.exit()
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        verbs = self.list_commands(ctx)
        if name not in verbs and not name.startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(f"There is no verb {name!r}.{_suggestion(name, verbs, ctx)}", ctx)
        return super().resolve_command(ctx, args)


def _suggestion(name: str, verbs: list[str], ctx: click.Context) -> str:
    habit = SYNONYMS.get(name)
    if habit is not None and (ctx.parent is None or habit in verbs):
        near = [habit]
    else:
        from difflib import get_close_matches

        near = get_close_matches(name, verbs, n=2, cutoff=0.5)
    return f" Did you mean {' or '.join(f'`{ctx.command_path} {verb}`' for verb in near)}?" if near else ""


class Root(Verbs):
    """The outermost group. It turns every exception into a paragraph on stderr and an exit code."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        app = extra.setdefault("obj", App())
        with _reported(app):
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _reported(ctx.ensure_object(App)):
            result = super().invoke(ctx)
            sys.stdout.flush()  # flush here, where a reader that has left can still be handled
            return result


@contextmanager
def _reported(app: App) -> Iterator[None]:
    try:
        yield
    except (click.exceptions.Exit, SystemExit):
        raise
    except BaseException as error:
        from edgelora.cli.support.failure import report

        raise click.exceptions.Exit(report(error, as_json=app.as_json)) from None
