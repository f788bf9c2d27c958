"""The chat's terminal: line editing, history, completion, Ctrl-C and Ctrl-D. The commands are in `conversation.py`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output
from prompt_toolkit.shortcuts import CompleteStyle
from prompt_toolkit.styles import Style

from edgelora.cli.chat.conversation import COMMANDS, NONE, Chat
from edgelora.cli.support.output import hint

HISTORY = "chat_history"


class Prompter(Protocol):
    """Asks for one line. Raises KeyboardInterrupt on Ctrl-C and EOFError on Ctrl-D."""

    def prompt(self, message: str) -> str: ...


def converse(chat: Chat, state: Path, prompter: Prompter | None = None) -> None:
    """Chat until the user leaves. Ctrl-C stops an answer or clears the line; it never ends the program."""
    asker = prompter or session(chat, _history(state))
    chat.greet()
    while chat.open:
        try:
            chat.handle(asker.prompt(f"{chat.label}> "))
        except KeyboardInterrupt:
            hint("Ctrl-D or /bye leaves.")
        except EOFError:
            return


def session(
    chat: Chat, history: History, *, input: Input | None = None, output: Output | None = None
) -> PromptSession[str]:
    """Return the line editor; `input` and `output` are the terminal unless given."""
    return PromptSession(
        history=history,
        completer=SlashCompleter(chat),
        complete_style=CompleteStyle.READLINE_LIKE,
        reserve_space_for_menu=0,
        style=Style.from_dict({"prompt": "bold"}),
        key_bindings=_keys(),
        enable_history_search=True,
        input=input,
        output=output,
    )


class SlashCompleter(Completer):
    """Completes `/` to the commands, and what follows `/adapter` to the installed names."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        line = document.text_before_cursor.lstrip()
        command, space, rest = line.partition(" ")
        if not line.startswith("/"):
            return
        if not space:
            candidates, typed = list(COMMANDS), command
        elif command == "/adapter":
            candidates, typed = [*self._chat.adapters(), NONE], rest.rpartition(" ")[2]
        else:
            return
        for name in candidates:
            if name.startswith(typed):
                yield Completion(name, start_position=-len(typed))


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def _history(state: Path) -> History:
    """Return the history of earlier chats, readable by this user only; in memory if the file cannot be written."""
    path = state / HISTORY
    try:
        state.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))
