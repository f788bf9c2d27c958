"""`python -m tests.system.answers`: all exact-answer sets over llama.cpp and MLX. Exit code 1 where one word
differs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from edgelora.core.config import read_settings
from edgelora.core.sampling_params import SamplingParams
from edgelora.runtime.service import Service
from edgelora.store.library import open_library
from edgelora.text.prompt import Message
from edgelora_converters.base.convert import Format, convert_base
from edgelora_models import builtin

GREEDY = SamplingParams(temperature=0.0, max_tokens=96)
FORMATS: tuple[Format, ...] = ("gguf", "mlx")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.system.answers", description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="ask one question in so many (default 1: all)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        answers = [_answers(Path(folder), to, every=options.every) for to in FORMATS]
    differences = 0
    for asked, here, there in zip(answers[0], answers[0].values(), answers[1].values(), strict=True):
        if here != there:
            differences += 1
            print(f"{asked}\n  llama.cpp: {here}\n  mlx:       {there}")
    print(f"{len(answers[0])} answers, {differences} differ")
    return 1 if differences else 0


def _answers(folder: Path, to: Format, *, every: int) -> dict[tuple[str | None, str], str]:
    """By adapter (None: the base alone) and question; as many at once as the engine takes."""
    environ = {"EDGELORA_HOME": str(folder), "EDGELORA_OFFLINE": "1", "EDGELORA_QUEUE": "4000"}
    settings = read_settings(environ)
    convert_base(builtin.base_hf(), folder / f"base-{to}", to=to, kind="f32")
    open_library(settings).bases.add(folder / f"base-{to}", to)
    asked: list[tuple[str | None, str]] = []
    for name in sorted(builtin.adapters()):
        questions = [question.question for question in builtin.questions(name)][::every]
        asked += [(name, question) for question in questions] + [(None, question) for question in questions[::4]]
    began = time.perf_counter()
    with Service.open(settings, base=to) as service:
        streams = {
            (name, question): service.chat(
                [Message("user", question)], adapters=service.compose(*([name] if name else [])), sampling=GREEDY
            )
            for name, question in asked
        }
        answers = {key: stream.text() for key, stream in streams.items()}
        print(f"{to}: {len(answers)} answers in {time.perf_counter() - began:.0f} s")
    return answers


if __name__ == "__main__":
    raise SystemExit(main())
