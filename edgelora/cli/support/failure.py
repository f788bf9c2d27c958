"""The one place where an exception becomes a paragraph on stderr and an exit code."""

from __future__ import annotations

import json
import os
import sys
import traceback
from dataclasses import dataclass

import click

from edgelora.cli.support.output import paint
from edgelora.core.errors import Cancelled, EdgeloraError, NotFound

UNEXPECTED = 1
USAGE = 2
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception as the command line reports it."""

    exit_code: int
    code: str
    message: str
    remedy: str = ""

    @property
    def paragraph(self) -> str:
        return f"{self.message} {self.remedy}".strip()

    def as_json(self) -> str:
        body = {"code": self.code, "message": self.message, "remedy": self.remedy}
        return json.dumps({"error": body}, ensure_ascii=False)


def report(error: BaseException, *, as_json: bool) -> int:
    """Print `error` to stderr and return its exit code."""
    if isinstance(error, BrokenPipeError):
        _close_stdout()
        return 0
    failure = describe(error)
    if os.environ.get("EDGELORA_DEBUG"):
        traceback.print_exception(error)
    if as_json:
        click.echo(failure.as_json(), err=True)
    elif failure.exit_code == INTERRUPTED:
        click.echo(err=True)  # closes the terminal's `^C`, or the half line of an answer
    else:
        click.echo(f"{paint('error:', to=sys.stderr, bold=True, fg='red')} {failure.paragraph}", err=True, color=True)
    return failure.exit_code


def describe(error: BaseException) -> Failure:
    """Return the report of `error`: one of edgelora's, one of click's, an interrupt, or an unexpected exception."""
    if isinstance(error, KeyboardInterrupt | click.Abort):
        error = Cancelled("Interrupted.")
    if isinstance(error, NotFound) and error.code == "model_not_found":
        # The service says "model", as HTTP does; the command line says "adapter".
        message = f"There is no adapter named {error.name!r}."
        return Failure(
            error.exit_code, "adapter_not_found", message, error.remedy or "`edgelora ls` lists the adapters."
        )
    if isinstance(error, EdgeloraError):
        return Failure(error.exit_code, error.code, error.what, error.remedy)
    if isinstance(error, click.ClickException):
        return Failure(error.exit_code, "usage", _sentence(error.format_message()), _usage_remedy(error))
    message = f"Something unexpected went wrong: {type(error).__name__}: {error}".rstrip(": ")
    return Failure(UNEXPECTED, "unexpected", _sentence(message), "Set EDGELORA_DEBUG=1 to see the traceback.")


def _usage_remedy(error: click.ClickException) -> str:
    if not isinstance(error, click.UsageError) or error.ctx is None:
        return ""
    if isinstance(error, click.NoSuchOption) and _is_global(error.option_name, error.ctx):
        return f"It goes before the verb: `edgelora {error.option_name} {error.ctx.info_name} ...`."
    return f"`{error.ctx.command_path} --help` shows the usage."


def _is_global(option: str, ctx: click.Context) -> bool:
    root = ctx.find_root()
    return ctx is not root and any(option in parameter.opts for parameter in root.command.params)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!", ")")) else f"{text}."


def _close_stdout() -> None:
    """Discard what is still buffered: the reader is gone, and the interpreter flushes stdout once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
