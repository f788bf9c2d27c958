"""`edgelora run` with a prompt: where prompts come from, what goes to stdout, what is measured, how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from edgelora.cli.commands import run as run_module
from edgelora.cli.support.answer import follow
from edgelora.core.config import Settings
from edgelora.core.errors import BackendError
from edgelora.core.events import Event, Failed, Finished, FinishReason, TextDelta, Timings, Usage
from edgelora.core.progress import Progress
from edgelora.engine.stream import Stream
from edgelora.runtime.service import Service
from edgelora.store.library import Library
from tests.support.cli import make_app, run, script
from tests.support.service import FakeService

FINISHED = Finished(FinishReason.STOP, Usage(3, 2), Timings(queued=0, load=0, prefill=0.1, decode=0.1))

SLOW = """
import time
step = service.backend.step
def slow(chunks):
    time.sleep(0.02)
    return step(chunks)
service.backend.step = slow
"""


def said_to(service: FakeService) -> str:
    """The last prompt as text, control tokens left out."""
    return bytes(token for token in service.prompts[-1] if token < 256).decode()


def test_answer_alone_on_stdout(service: FakeService) -> None:
    """stdout holds the answer and the end of its line, and nothing else is said."""
    done = run(make_app(service=service), "run", "Hi")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "Hello.\n", "")


PERSON = '{"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}'


def test_an_answer_of_a_schema(tmp_path: Path) -> None:
    """--json-schema holds the answer to the schema in a file."""
    file, answer = tmp_path / "person.json", '{"name": "Ann"}'
    file.write_text(PERSON)
    service = FakeService(tmp_path, adapters={"person": answer, "talker": "Hello."}, answer=answer)
    done = run(make_app(service=service), "run", "--json-schema", str(file), "Who?")
    assert (done.exit_code, done.stdout) == (0, answer + "\n")
    assert service.samplings[-1].constraint is not None


@pytest.mark.parametrize(
    ("written", "arguments", "code"),
    [
        (None, [], "schema_not_json"),
        ("{", [], "schema_not_json"),
        ("[" * 100_000, [], "schema_not_json"),
        ("5", [], "unsupported_schema"),
        ('{"not": {}}', [], "unsupported_schema"),
        (PERSON, ["--stop", "x"], "stop_in_json"),
    ],
)
def test_a_schema_that_cannot_be_used(
    service: FakeService, tmp_path: Path, written: str | None, arguments: list[str], code: str
) -> None:
    """The problem is reported, and there is no answer."""
    file = tmp_path / "schema.json"
    if written is not None:
        file.write_text(written)
    done = run(make_app(service=service), "run", "--json", "--json-schema", str(file), *arguments, "Who?")
    assert (done.exit_code, done.stdout) == (2, "") and json.loads(done.stderr)["error"]["code"] == code


def test_words_make_the_prompt(service: FakeService) -> None:
    """A prompt needs no quotes."""
    run(make_app(service=service), "run", "What", "is", "this?", stdin="not read")
    assert said_to(service).endswith("user\n\nWhat is this?assistant\n\n")


@pytest.mark.parametrize(
    ("arguments", "stdin", "prompt"),
    [
        ([], "From a pipe.\n", "From a pipe."),
        (["-"], "From a pipe.\r\n", "From a pipe."),
        (["Sum up:", "-", "Briefly."], "Much.\n", "Sum up: Much. Briefly."),
        (["-"], b"\xef\xbb\xbfWith a mark: \xc3\xa9", "With a mark: é"),
    ],
)
def test_piped_prompt(service: FakeService, arguments: list[str], stdin: str | bytes, prompt: str) -> None:
    """Without words the prompt is what is piped in, and `-` puts it among the words."""
    assert run(make_app(service=service), "run", *arguments, stdin=stdin).exit_code == 0
    assert f"user\n\n{prompt}assistant" in said_to(service)


@pytest.mark.parametrize(
    ("arguments", "stdin", "code"),
    [([], "", "no_prompt"), ([" "], None, "no_prompt"), (["-"], b"\xff\xfe\x00", "prompt_not_text")],
)
def test_no_usable_prompt(arguments: list[str], stdin: str | bytes | None, code: str) -> None:
    """An empty prompt, or bytes that are no text, is told before a base is loaded."""
    done = run(make_app(), "run", "--json", *arguments, stdin=stdin)
    assert done.exit_code == 2
    assert json.loads(done.stderr)["error"]["code"] == code


def test_adapter(installed: Library, service: FakeService) -> None:
    """--adapter answers with that adapter."""
    assert run(make_app(installed, service), "run", "-a", "medical-faq", "Hi").stdout == "See a doctor.\n"


@pytest.mark.parametrize("given", [["medical-faq=0.75", "pirate=.25"], ["pirate=0.25", "medical-faq=0.75"]])
def test_several_adapters(installed: Library, service: FakeService, given: list[str]) -> None:
    """Each with its weight, in any order; JSON tells what acted."""
    done = run(make_app(installed, service), "run", "-a", given[0], "--adapter", given[1], "--json", "Hi")
    printed = json.loads(done.stdout)
    assert printed["answer"] == "Arr, matey!*0.25 + See a doctor.*0.75"
    assert {(adapter["name"], adapter["weight"]) for adapter in printed["adapters"]} == {
        (str(service.refs["pirate"]), 0.25),
        (str(service.refs["medical-faq"]), 0.75),
    }


@pytest.mark.parametrize(
    ("given", "code", "what"),
    [
        (["-a", "medical-faq=x"], 2, "'x' in 'medical-faq=x' is no weight"),
        (["-a", "medical-faq=9"], 2, "no weight from -4 to 4"),
        (["-a", "medical-faq", "-a", "medcal-faq=0.5"], 3, "Did you mean 'medical-faq'?"),
        (["-a", "medical-faq", "-a", "medical-faq=0.5"], 2, "given twice"),
    ],
)
def test_bad_compositions(installed: Library, service: FakeService, given: list[str], code: int, what: str) -> None:
    """A weight that is none, an unknown name among known ones, one adapter twice: an error that says so."""
    done = run(make_app(installed, service), "run", *given, "Hi")
    assert (done.exit_code, done.stdout) == (code, "") and what in done.stderr


def test_base_by_name(installed: Library, service: FakeService) -> None:
    """The base's own name is the base alone, as over HTTP."""
    assert run(make_app(installed, service), "run", "-a", "tiny", "Hi").stdout == "Hello.\n"


def test_unknown_adapter(installed: Library) -> None:
    """An unknown name is exit 3 with near names before the base is loaded, and never the base in disguise."""
    done = run(make_app(installed), "run", "-a", "medcal-faq", "Hi")
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr == "error: There is no adapter named 'medcal-faq'. Did you mean 'medical-faq'?\n"


def test_system_prompt(service: FakeService) -> None:
    """--system comes before the prompt, in its own role."""
    run(make_app(service=service), "run", "--system", "Be brief.", "Hi")
    assert said_to(service) == "system\n\nBe brief.user\n\nHiassistant\n\n"


def test_sampling_options(service: FakeService) -> None:
    """Options that are given take the place of the base's defaults; the others stay."""
    given = ["--temperature", "0.5", "--top-k", "9", "--min-p", "0.1", "--repeat-penalty", "1.2"]
    given += ["--seed", "7", "--max-tokens", "4"]
    run(make_app(service=service), "run", *given, "--stop", "a", "--stop", "b", "Hi")
    used = service.samplings[-1]
    assert (used.temperature, used.top_k, used.min_p, used.repeat_penalty) == (0.5, 9, 0.1, 1.2)
    assert (used.seed, used.max_tokens, used.stop, used.top_p) == (7, 4, ("a", "b"), service.base.top_p)


@pytest.mark.parametrize(
    "wrong", [["--temperature", "-1"], ["--top-p", "0"], ["--max-tokens", "0"], ["--min-p", "2"], ["--seed", "x"]]
)
def test_bad_sampling_options(wrong: list[str]) -> None:
    """A value out of range is refused before anything is loaded."""
    done = run(make_app(), "run", *wrong, "Hi")
    assert done.exit_code == 2
    assert wrong[0] in done.stderr


def test_cut_answer_says_so(service: FakeService) -> None:
    """An answer that was cut is noted on stderr, and stays alone on stdout."""
    done = run(make_app(service=service), "run", "--max-tokens", "3", "Hi")
    assert done.stdout == "Hel\n"
    assert "3 tokens" in done.stderr


def test_json(installed: Library, service: FakeService) -> None:
    """--json is one object: answer, who answered, why it ended, usage, timings."""
    done = run(make_app(installed, service), "run", "--json", "-a", "pirate", "Hi")
    assert (done.exit_code, done.stderr) == (0, "")
    printed = json.loads(done.stdout)
    assert printed["answer"] == "Arr, matey!"
    assert (printed["base"], printed["finish_reason"]) == ("tiny", "stop")
    assert printed["adapters"] == [{"name": str(service.refs["pirate"]), "weight": 1.0}]
    assert printed["usage"]["total_tokens"] == printed["usage"]["prompt_tokens"] + printed["usage"]["completion_tokens"]
    assert printed["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    assert printed["drafts"] == {"tokens": 0, "accepted": 0}
    assert {"first_token_seconds", "decode_seconds", "tokens_per_second"} <= printed["timings"].keys()


def test_too_long_for_the_context(service: FakeService) -> None:
    """A prompt that does not fit is exit 2 with both numbers."""
    done = run(make_app(service=service), "run", "-", stdin="x" * 5000)
    assert done.exit_code == 2
    assert "--context" in done.stderr


def test_failure_in_the_middle(service: FakeService) -> None:
    """A backend that fails ends the run with its exit code; what had come stays."""
    service.backend.fail_steps = {3}
    done = run(make_app(service=service), "run", "Hi")
    assert done.exit_code == 9
    assert done.stderr.count("error:") == 1


def test_follow_hands_on_at_once() -> None:
    """Text is handed on when it comes, not when the answer is complete."""
    stream = Stream("r", lambda _: None)
    seen: list[str] = []

    def on_text(text: str) -> None:
        seen.append(text)
        stream.put(FINISHED)  # the end comes only after the first text was seen

    stream.put(TextDelta("One"))
    assert follow(stream, on_text) == FINISHED
    assert seen == ["One"]


@pytest.mark.parametrize("last", [Failed(BackendError("broken", "It broke.")), TextDelta("more")])
def test_follow_cancels_what_it_leaves(last: Event) -> None:
    """Whatever ends the reading early cancels the generation."""
    cancelled: list[str] = []
    stream = Stream("r", cancelled.append)
    stream.put(last)

    def on_text(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises((BackendError, KeyboardInterrupt)):
        follow(stream, on_text)
    assert cancelled == ["r"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
def test_interrupt(tmp_path: Path) -> None:
    """Ctrl-C in the middle of an answer is exit 130, and what had come stays on stdout."""
    command = script(tmp_path, answer="word " * 300, setup=SLOW)
    with subprocess.Popen([*command, "run", "Hi"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        first = os.read(running.stdout.fileno(), 1)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=30)
    assert (running.returncode, err) == (130, b"\n")
    assert (first + out).startswith(b"w") and b"word " * 300 not in out


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe breaks otherwise there")
def test_reader_that_leaves(tmp_path: Path) -> None:
    """`edgelora run ... | head -1` ends quietly."""
    command = script(tmp_path, answer="word " * 300, setup=SLOW)
    with subprocess.Popen([*command, "run", "Hi"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None and running.stderr is not None
        os.read(running.stdout.fileno(), 1)
        running.stdout.close()
        err = running.stderr.read()
        running.wait(timeout=30)
    assert (running.returncode, err) == (0, b"")


def test_a_pipe_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more is read than any base could take; it is refused before one is loaded."""
    monkeypatch.setattr(run_module, "PIPED_BYTES", 1000)
    done = run(make_app(), "run", "Sum up:", "-", stdin=b"x" * 1001)
    assert done.exit_code == 2 and "Pipe in a part of it." in done.stderr


def test_a_prompt_that_cannot_fit(service: FakeService) -> None:
    """It is refused for its length, whatever is in it: exit 2, with what to do."""
    done = run(make_app(service=service), "run", "-", stdin=b"x" * (3 << 20))
    assert done.exit_code == 2 and "at least" in done.stderr and "--context" in done.stderr
    assert service.prompts == []


def test_one_answer_is_not_repacked_for(service: FakeService, installed: Library) -> None:
    """A single answer is there before a large base is repacked: auto means mapped; who says otherwise gets it."""
    seen: list[Settings] = []
    app = make_app(installed, service)

    def opened(settings: Settings, *, base: str | None, progress: Progress | None) -> Service:
        seen.append(settings)
        return cast(Service, service)

    app.service = opened
    run(app, "run", "Hi")
    run(app, "run", "Hi", "--weights", "repacked", "--kv-type", "q8_0", "--threads", "3")
    assert [settings.weights for settings in seen] == ["mapped", "repacked"]
    assert [(settings.kv_type, settings.threads) for settings in seen] == [("f16", None), ("q8_0", 3)]
