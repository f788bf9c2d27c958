"""From a checkpoint to an answer: convert, add, and ask the built-in adapters on the new base."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgelora.core.config import Settings, read_settings
from edgelora.core.sampling_params import SamplingParams
from edgelora.runtime.service import Service
from edgelora.store.library import open_library
from edgelora.text.prompt import Message
from edgelora_converters.base.convert import convert_base
from edgelora_models import builtin


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A home of its own, for another base comes into it."""
    return read_settings({"EDGELORA_HOME": str(tmp_path / "home"), "EDGELORA_OFFLINE": "1", "EDGELORA_THREADS": "1"})


def test_a_converted_base_answers(settings: Settings, tmp_path: Path) -> None:
    """The built-in base's own checkpoint as Q6_K is the same base: its adapters run on it and answer as trained."""
    convert_base(builtin.base_hf(), tmp_path / "mine.gguf", to="gguf", kind="q6_k", threads=1)
    open_library(settings).bases.add(tmp_path / "mine.gguf", "mine")
    with Service.open(settings, base="mine") as service:
        asked = [(name, question) for name in builtin.adapters() for question in builtin.questions(name)[:3]]
        answers = [
            service.chat(
                [Message("user", question.question)],
                adapters=service.compose(name),
                sampling=SamplingParams(max_tokens=96),
            ).text()
            for name, question in asked
        ]
    right = sum(said == question.answer for said, (_, question) in zip(answers, asked, strict=True))
    assert right >= len(asked) - 2, answers
