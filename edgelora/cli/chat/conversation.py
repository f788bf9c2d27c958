"""A chat with slash commands. It uses the service and writes to stdout and stderr; `terminal.py` owns the terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

import click

from edgelora.cli.support.answer import Printer, follow, note_length
from edgelora.cli.support.failure import describe
from edgelora.cli.support.output import hint, note
from edgelora.cli.support.overrides import SamplingOptions
from edgelora.cli.support.progress import spinner
from edgelora.core.errors import ContextTooLong, EdgeloraError
from edgelora.core.model_id import show_weight, split_weight

if TYPE_CHECKING:
    from edgelora.core.request import AdapterUse
    from edgelora.runtime.service import Service
    from edgelora.text.prompt import Message

NONE = "none"
"""The argument that turns the adapter or the system prompt off."""


@dataclass(frozen=True, slots=True)
class Command:
    usage: str
    help: str
    act: Callable[[Chat, str], None]


class Chat:
    """A conversation: its turns, the adapters in use and the system prompt."""

    def __init__(
        self, service: Service, *, sampling: SamplingOptions, acting: tuple[AdapterUse, ...], system: str | None
    ) -> None:
        self.service = service
        self.acting = acting
        self.system = system
        self.turns: list[Message] = []
        self.open = True
        """False after `/bye`."""
        self._sampling = sampling.over(service.default_sampling())

    @property
    def label(self) -> str:
        """Return the name shown in the prompt: the adapters in use, or the base."""
        return " + ".join(map(show_weight, self.acting)) or self.service.base.name

    def adapters(self) -> list[str]:
        return [card.id for card in self.service.models() if card.parent is not None]

    def greet(self) -> None:
        names = self.adapters()
        shown = f"{', '.join(names[:6])}{' ...' if len(names) > 6 else ''}" if names else "none yet"
        note(f"A chat with {self.service.base.name}. Adapters: {shown}")
        hint("/adapter NAME switches, /help lists the commands, Ctrl-D leaves.")

    def handle(self, line: str) -> None:
        """Handle one line, a slash command or a message. Errors are printed, never raised."""
        text = line.strip()
        try:
            if text.startswith("/"):
                self._command(text)
            elif text:
                self._send(text)
        except EdgeloraError as error:
            more = " /clear starts a new conversation." if isinstance(error, ContextTooLong) else ""
            click.echo(f"error: {describe(error).paragraph}{more}", err=True)

    def _send(self, text: str) -> None:
        from edgelora.text.prompt import Message

        history = [*self.turns, Message("user", text)]
        opening = [Message("system", self.system)] if self.system else []
        answer = self._answer([*opening, *history])
        if answer:
            # A question without an answer is dropped, so that it can be asked again.
            self.turns = [*history, Message("assistant", answer)]

    def _answer(self, messages: list[Message]) -> str:
        with spinner("Thinking ...") as waiting:
            printer = Printer(waiting)
            try:
                stream = self.service.chat(messages, adapters=self.acting, sampling=self._sampling)
                finished = follow(stream, printer)
            except KeyboardInterrupt:
                printer.quiet()
                printer.end_line()
                hint("(stopped)")
                return printer.text
        printer.end_line()
        note_length(finished)
        return printer.text

    def _command(self, text: str) -> None:
        name, _, rest = text.partition(" ")
        command = COMMANDS.get(name)
        if command is None:
            near = get_close_matches(name, COMMANDS, n=1, cutoff=0.4)
            meant = f" Did you mean {near[0]}?" if near else ""
            click.echo(f"There is no command {name}.{meant} /help lists them.", err=True)
            return
        command.act(self, rest.strip())

    def use_adapters(self, names: str) -> None:
        if not names:
            self._list_adapters()
            return
        weighted = [] if names == NONE else [split_weight(name) for name in names.split()]
        self.acting = self.service.compose(*weighted)
        for use in self.acting:
            self.service.prefetch(use.ref)  # while the next line is typed
        hint(f"{self.label} answers from now on; the conversation continues.")

    def _list_adapters(self) -> None:
        current = {use.ref.name: show_weight(use) for use in self.acting} or {NONE: NONE}
        for name in [*self.adapters(), NONE]:
            mark, name = ("*", current[name]) if name in current else (" ", name)
            extra = f"  ({self.service.base.name} alone)" if name == NONE else ""
            click.echo(f"{mark} {name}{extra}", err=True)

    def use_system(self, text: str) -> None:
        if not text:
            note(self.system or "There is no system prompt. /system TEXT sets one.")
            return
        self.system = None if text == NONE else text
        hint("The system prompt is removed." if self.system is None else "The system prompt is set.")

    def clear(self, _rest: str) -> None:
        self.turns = []
        hint("The conversation is cleared.")

    def help(self, _rest: str) -> None:
        for command in COMMANDS.values():
            click.echo(f"{command.usage:<18}{command.help}", err=True)
        hint("Ctrl-C stops an answer. Alt-Enter starts a new line. Ctrl-D leaves.")

    def leave(self, _rest: str) -> None:
        self.open = False


COMMANDS = {
    "/adapter": Command(
        "/adapter [NAME]",
        "switch adapters (A=0.7 B=0.3 for two, none for the base alone), or list them",
        Chat.use_adapters,
    ),
    "/system": Command("/system [TEXT]", "set the system prompt (none removes it), or show it", Chat.use_system),
    "/clear": Command("/clear", "start a new conversation", Chat.clear),
    "/help": Command("/help", "list the commands", Chat.help),
    "/bye": Command("/bye", "leave the chat", Chat.leave),
}
