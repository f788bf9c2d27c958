"""The chat's terminal: the loop, the keys, the completion, the history file; and once the whole of it on a real one."""

from __future__ import annotations

import os
import select
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from edgelora.cli.chat.conversation import Chat
from edgelora.cli.chat.terminal import HISTORY, SlashCompleter, converse, session
from tests.edgelora.cli.chat.test_conversation import make_chat
from tests.support.cli import script
from tests.support.service import FakeService

WAIT_SECONDS = 20.0


class Lines:
    """A person who types these lines; an exception is a key."""

    def __init__(self, *lines: str | type[BaseException]) -> None:
        self.lines = list(lines)
        self.messages: list[str] = []

    def prompt(self, message: str) -> str:
        self.messages.append(message)
        line = self.lines.pop(0)
        if isinstance(line, str):
            return line
        raise line


@pytest.fixture
def chat(service: FakeService) -> Chat:
    return make_chat(service)


def completions(chat: Chat, typed: str) -> list[str]:
    return [c.text for c in SlashCompleter(chat).get_completions(Document(typed), CompleteEvent())]


def test_loop(chat: Chat, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C on an empty line stays, Ctrl-D leaves, and the prompt says who answers."""
    person = Lines("Hi", KeyboardInterrupt, "/adapter pirate", "Hi", EOFError)
    converse(chat, tmp_path, person)
    assert person.messages == ["tiny> ", "tiny> ", "tiny> ", "pirate> ", "pirate> "]
    assert capsys.readouterr().out == "Hello.\nArr, matey!\n"


def test_bye_leaves(chat: Chat, tmp_path: Path) -> None:
    """/bye asks for no further line."""
    person = Lines("/bye")
    converse(chat, tmp_path, person)
    assert person.lines == []


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("/", ["/adapter", "/system", "/clear", "/help", "/bye"]),
        ("/ad", ["/adapter"]),
        ("/adapter ", ["medical-faq", "pirate", "none"]),
        ("/adapter pirate=0.3 med", ["medical-faq"]),
        ("/adapter pi", ["pirate"]),
        ("/system p", []),
        ("ad", []),
    ],
)
def test_completion(chat: Chat, typed: str, offered: list[str]) -> None:
    """Commands complete after a slash, adapters after /adapter, and nothing in ordinary text."""
    assert completions(chat, typed) == offered


@pytest.mark.parametrize(
    ("keys", "line"), [("/ad\t\r", "/adapter"), ("one\x1b\rtwo\r", "one\ntwo"), ("/adapter pi\t\r", "/adapter pirate")]
)
def test_keys(chat: Chat, keys: str, line: str) -> None:
    """Tab completes, and Alt-Enter starts a new line."""
    with create_pipe_input() as typed:
        typed.send_text(keys)
        editor = session(chat, InMemoryHistory(), input=typed, output=DummyOutput())
        assert editor.prompt("> ") == line


def test_history_is_private(chat: Chat, tmp_path: Path) -> None:
    """Lines are kept for the next chat, in a file that only its owner reads."""
    with create_pipe_input() as typed, create_app_session(input=typed, output=DummyOutput()):
        typed.send_text("Hi\r\x04")
        converse(chat, tmp_path / "state")
    path = tmp_path / "state" / HISTORY
    assert "+Hi" in path.read_text(encoding="utf-8")
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_history_that_cannot_be_kept(chat: Chat, tmp_path: Path) -> None:
    """The chat works without a history if none can be written."""
    (tmp_path / "state").write_text("a file where the folder would be")
    with create_pipe_input() as typed, create_app_session(input=typed, output=DummyOutput()):
        typed.send_text("\x04")
        converse(chat, tmp_path / "state")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_on_a_terminal(tmp_path: Path) -> None:
    """`edgelora run` on a terminal is a chat: an answer, an interrupted answer, a switch, Ctrl-D, exit 0."""
    setup = """
import fcntl, termios, time
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C comes from this terminal
step = service.backend.step
def slow(chunks):
    time.sleep(0.01)
    return step(chunks)
service.backend.step = slow
"""
    command = script(tmp_path, answer="word " * 300, setup=setup)
    with Terminal([*command, "run"]) as terminal:
        terminal.wait_for("tiny>")
        terminal.send("Hi\r")
        terminal.wait_for("word word")
        terminal.send("\x03")
        terminal.wait_for("(stopped)")
        terminal.send("/adapter pirate\r")
        terminal.wait_for("pirate>")
        terminal.send("Hi\r")
        terminal.wait_for("Arr, matey!")
        terminal.wait_for("pirate>")
        terminal.send("\x04")
        assert terminal.ended() == 0, terminal.seen


class Terminal:
    """A process on a pseudo-terminal of its own."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self.seen = ""

    def __enter__(self) -> Terminal:
        import pty

        self._ours, theirs = pty.openpty()
        environ = os.environ | {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        self._process = subprocess.Popen(
            self._command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environ,
            start_new_session=True,
        )
        os.close(theirs)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)

    def send(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def wait_for(self, text: str) -> None:
        """Read until `text` has been seen; what is after it is left for the next call."""
        while text not in self.seen:
            more = self._read()
            assert more, f"no {text!r} in {self.seen!r}"
            self.seen += more
        self.seen = self.seen.partition(text)[2]

    def ended(self) -> int:
        """Read to the end, so that the process is not held up, and give its exit code."""
        while more := self._read():
            self.seen += more
        return self._process.wait(timeout=WAIT_SECONDS)

    def _read(self) -> str:
        """Return the next output; empty at the end or after a silence."""
        if not select.select([self._ours], [], [], WAIT_SECONDS)[0]:
            return ""
        try:
            return os.read(self._ours, 4096).decode(errors="replace")
        except OSError:  # how Linux tells the end of a pseudo-terminal
            return ""
