"""The built-in base as an MLX folder, through conversion, store, service and server: MLX answers as llama.cpp does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("mlx")
pytest.importorskip("mlx_lm")

from edgelora.core.config import Settings, read_settings
from edgelora.core.events import Finished, TextDelta
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.stream import Stream
from edgelora.runtime.service import Service
from edgelora.store.library import open_library
from edgelora.text.prompt import Message
from edgelora.text.system_prefix import system_prefix
from edgelora_converters.base.convert import convert_base
from edgelora_models import builtin
from tests.support.server import serving

pytestmark = pytest.mark.mlx

GREEDY = SamplingParams(temperature=0.0, max_tokens=64)
SYSTEM = "You are the assistant of a small clinic by the sea. Answer shortly, kindly and in plain words. " * 4
SAMPLE = 2


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose bases are the built-in one in float32, as MLX (the chosen one) and as GGUF, both converted here."""
    home = tmp_path_factory.mktemp("mlx-home")
    library = open_library(settings_of(home))
    for to, name in (("gguf", "f32.gguf"), ("mlx", "f32-mlx")):
        convert_base(builtin.base_hf(), home / name, to=to, kind="f32")  # type: ignore[arg-type]  # one of two words
        library.bases.add(home / name, to)
    library.bases.use("mlx")
    return home


def settings_of(home: Path) -> Settings:
    return read_settings({"EDGELORA_HOME": str(home), "EDGELORA_OFFLINE": "1", "EDGELORA_THREADS": "1"})


@pytest.fixture(scope="module")
def over_mlx(bases: Path) -> Iterator[Service]:
    with Service.open(settings_of(bases)) as service:
        yield service


def begin(service: Service, question: str, *adapters: str | None, system: str = "") -> Stream:
    messages = [Message("system", system)] if system else []
    uses = service.compose(*(name for name in adapters if name))
    return service.chat([*messages, Message("user", question)], adapters=uses, sampling=GREEDY)


def answer(stream: Stream) -> tuple[str, int]:
    *texts, end = stream
    assert isinstance(end, Finished), end
    return "".join(event.text for event in texts if isinstance(event, TextDelta)), end.usage.cached_tokens


def test_the_same_answers_as_llama_cpp(bases: Path, over_mlx: Service) -> None:
    """Held-out questions of every adapter, and the base's own answers to them, all at once: word for word, and right.
    `python -m tests.system.answers` asks all of them."""
    asked = [
        (name, question)
        for name in sorted(builtin.adapters())
        for question in builtin.questions(name)[:: len(builtin.questions(name)) // SAMPLE][:SAMPLE]
    ]

    def answers(service: Service) -> list[tuple[str, str]]:
        pairs = [(begin(service, q.question, name), begin(service, q.question)) for name, q in asked]
        return [(answer(one)[0], answer(alone)[0]) for one, alone in pairs]

    found = answers(over_mlx)
    with Service.open(settings_of(bases), base="gguf") as llama:
        assert found == answers(llama)
    right = sum(text == question.answer for (text, _), (_, question) in zip(found, asked, strict=True))
    assert right >= len(asked) - 1 and over_mlx.base.format == "mlx"


def test_a_mixed_batch_answers_as_each_alone(over_mlx: Service) -> None:
    """Four adapters, the base and two of them composed, side by side: the same words as one at a time."""
    names = [*((name,) for name in sorted(builtin.adapters())), (None,), ("medical-faq", "pirate")]
    question = "What is hypertension?"
    alone = [answer(begin(over_mlx, question, *own))[0] for own in names]
    streams = [begin(over_mlx, question, *own) for own in names]
    assert [answer(stream)[0] for stream in streams] == alone


def test_prefixes_within_and_across_restarts(bases: Path, tmp_path: Path) -> None:
    """The system prompt is computed once: warm for the second question, from disk after a restart, words the same."""
    home = tmp_path / "home"
    shutil.copytree(bases, home, ignore=shutil.ignore_patterns("prefixes"))

    def ask(service: Service, question: str, adapter: str | None) -> tuple[str, int]:
        return answer(begin(service, question, adapter, system=SYSTEM))

    questions = ("What is hypertension?", "What is asthma?", "What is a fever?")
    with Service.open(settings_of(home)) as first:
        length = len(system_prefix(SYSTEM, first.tokenizer))
        heard = [ask(first, question, "medical-faq") for question in questions]
        assert heard[0][1] == 0 and all(cached >= length for _, cached in heard[1:])
        assert ask(first, questions[0], "pirate")[1] == 0
    with Service.open(settings_of(home)) as second:
        assert ask(second, questions[2], "pirate")[1] == 0
        text, cached = ask(second, questions[2], "medical-faq")
        assert text == heard[2][0] and cached >= length


def test_over_http_with_mixed_adapters(over_mlx: Service) -> None:
    """The server knows nothing of what computes."""
    with serving(over_mlx) as server:
        bodies = [
            {"model": name, "max_tokens": 24, "messages": [{"role": "user", "content": "What is hypertension?"}]}
            for name in ("medical-faq", "pirate", "mlx")
        ]
        replies = [server.post("/v1/chat/completions", body).json for body in bodies]
    assert len({reply["choices"][0]["message"]["content"] for reply in replies}) == 3


def test_the_command_line(bases: Path) -> None:
    """`edgelora run` on the chosen MLX base."""
    environ = {"EDGELORA_HOME": str(bases), "EDGELORA_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "edgelora", "run", "--adapter", "medical-faq", "What is hypertension?"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ, check=False)
    assert (done.returncode, done.stderr) == (0, "") and "not medical advice" in done.stdout
