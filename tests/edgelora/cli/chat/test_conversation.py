"""The chat: turns, slash commands, interrupts and errors, without a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from edgelora.cli.chat.conversation import COMMANDS, Chat
from edgelora.cli.support.overrides import SamplingOptions
from edgelora.core.events import Event, TextDelta
from edgelora.core.request import AdapterUse
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.stream import Stream
from edgelora.text.prompt import Message
from tests.support.service import FakeService

PLAIN = SamplingOptions(
    temperature=None, top_p=None, top_k=None, min_p=None, repeat_penalty=None, seed=None, max_tokens=None, stop=()
)


class Interrupted(Stream):
    """Says one word; then somebody presses Ctrl-C."""

    def __init__(self) -> None:
        super().__init__("r", lambda _: None)
        self.cancelled = False

    def __iter__(self) -> Iterator[Event]:
        yield TextDelta("Well")
        raise KeyboardInterrupt

    def cancel(self) -> None:
        self.cancelled = True


class InterruptedService(FakeService):
    """Its first answer is interrupted."""

    stream: Interrupted | None = None

    def chat(
        self, messages: Sequence[Message], *, adapters: Sequence[AdapterUse] = (), sampling: SamplingParams
    ) -> Stream:
        if self.stream is None:
            self.stream = Interrupted()
            return self.stream
        return super().chat(messages, adapters=adapters, sampling=sampling)


def make_chat(service: FakeService, **options: object) -> Chat:
    return Chat(service, **({"sampling": PLAIN, "acting": (), "system": None} | options))  # type: ignore[arg-type]


def contents(chat: Chat) -> list[tuple[str, str]]:
    return [(turn.role, str(turn.content)) for turn in chat.turns]


def last_prompt(service: FakeService) -> str:
    return bytes(token for token in service.prompts[-1] if token < 256).decode()


def test_history_survives_a_switch(service: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    """/adapter switches in the middle of the conversation, and the next answer sees all of it."""
    chat = make_chat(service)
    for line in ("Hi", "/adapter pirate", "And now?"):
        chat.handle(line)
    assert capsys.readouterr().out == "Hello.\nArr, matey!\n"
    assert contents(chat) == [
        ("user", "Hi"),
        ("assistant", "Hello."),
        ("user", "And now?"),
        ("assistant", "Arr, matey!"),
    ]
    assert last_prompt(service) == "user\n\nHiassistant\n\nHello.user\n\nAnd now?assistant\n\n"


def test_adapter_none(service: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    """/adapter none is the base alone; the label says who answers."""
    chat = make_chat(service, acting=service.compose("pirate"))
    assert chat.label == "pirate"
    chat.handle("/adapter none")
    assert chat.label == "tiny"
    chat.handle("Hi")
    assert capsys.readouterr().out == "Hello.\n"


def test_several_adapters(service: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    """/adapter takes several with weights; the label and the list show what could be typed again."""
    chat = make_chat(service)
    chat.handle("/adapter pirate=0.25  medical-faq=0.75")
    assert chat.label == "pirate=0.25 + medical-faq=0.75"
    chat.handle("/adapter")
    chat.handle("Hi")
    out, err = capsys.readouterr()
    assert out == "Arr, matey!*0.25 + See a doctor.*0.75\n"
    assert err.splitlines()[-3:] == ["* medical-faq=0.75", "* pirate=0.25", "  none  (tiny alone)"]
    chat.handle("/adapter pirate=lots")
    assert "no weight" in capsys.readouterr().err and chat.label == "pirate=0.25 + medical-faq=0.75"


def test_adapter_list(service: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    """/adapter alone lists the adapters and marks the one in use; answers stay alone on stdout."""
    make_chat(service, acting=service.compose("pirate")).handle("/adapter")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["  medical-faq", "* pirate", "  none  (tiny alone)"]


def test_unknown_adapter(service: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown name is told with near ones, and changes nothing."""
    chat = make_chat(service, acting=service.compose("pirate"))
    chat.handle("/adapter medical-faqs")
    assert "Did you mean 'medical-faq'" in capsys.readouterr().err
    assert chat.label == "pirate" and chat.open


def test_system(service: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    """/system sets, shows and removes the system prompt."""
    chat = make_chat(service)
    for line in ("/system Be brief.", "/system", "Hi"):
        chat.handle(line)
    assert "Be brief." in capsys.readouterr().err
    assert last_prompt(service).startswith("system\n\nBe brief.user")
    chat.handle("/system none")
    chat.handle("Hi")
    assert last_prompt(service).startswith("user")


def test_clear(service: FakeService) -> None:
    """/clear forgets what was said and keeps the system prompt and the adapter."""
    chat = make_chat(service, system="Be brief.", acting=service.compose("pirate"))
    chat.handle("Hi")
    chat.handle("/clear")
    assert (chat.turns, chat.system, chat.label) == ([], "Be brief.", "pirate")


def test_help_lists_every_command(service: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    """/help names every command."""
    make_chat(service).handle("/help")
    err = capsys.readouterr().err
    assert all(f"{command.usage} " in err for command in COMMANDS.values())


def test_leave(service: FakeService) -> None:
    """/bye ends the chat."""
    chat = make_chat(service)
    chat.handle(" /bye ")
    assert not chat.open


def test_mistyped_command(service: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    """A slash command that is not there is never sent to the model, and near ones are named."""
    chat = make_chat(service)
    chat.handle("/adaptr pirate")
    assert "Did you mean /adapter?" in capsys.readouterr().err
    assert service.prompts == [] and chat.turns == []


def test_blank_line(service: FakeService) -> None:
    """A blank line is nothing to say."""
    make_chat(service).handle("   ")
    assert service.prompts == []


def test_interrupted_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C stops the answer, keeps what was said of it, and the chat goes on."""
    with InterruptedService(tmp_path, adapters={}, answer="Hello.") as service:
        chat = make_chat(service)
        chat.handle("Hi")
        assert service.stream is not None and service.stream.cancelled
        assert contents(chat) == [("user", "Hi"), ("assistant", "Well")]
        chat.handle("Again")
    assert capsys.readouterr().out == "Well\nHello.\n"


def test_question_without_answer_is_forgotten(service: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    """A question that failed is told, forgotten, and does not end the chat."""
    chat = make_chat(service)
    chat.handle("x" * 5000)
    err = capsys.readouterr().err
    assert err.startswith("error: ") and "/clear" in err
    assert chat.turns == [] and chat.open


def test_greeting(service: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    """The chat opens with the base, the adapters and the way out."""
    make_chat(service).greet()
    err = capsys.readouterr().err
    assert all(word in err for word in ("tiny", "medical-faq", "pirate", "/help", "Ctrl-D"))


def test_a_switch_loads_while_the_user_types(service: FakeService) -> None:
    """/adapter asks for the adapter at once; the base needs no loading."""
    chat = make_chat(service)
    chat.handle("/adapter pirate")
    assert service.engine.fetch(service.refs["pirate"]).result(20)
    assert service.backend.loads == [service.refs["pirate"].path]
    chat.handle("/adapter none")
    chat.handle("/adapter pirat")
    assert service.backend.loads == [service.refs["pirate"].path]
