"""The built-in demonstration: a tiny Llama base, adapters trained on it with PEFT, and questions that measure them.

It makes every command work without a download. Made by `models/recipe/`; here are only the paths and the questions.
Standard library only, and nothing is read before it is asked for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BASE_NAME", "Question", "adapters", "base_gguf", "base_hf", "questions"]

BASE_NAME = "edgelora-tiny"
_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Question:
    """A question in a wording the adapter never met with that fact, and the exact answer it should give."""

    question: str
    answer: str


def base_gguf() -> Path:
    """Return the base as a Q8_0 GGUF file, the default to run."""
    return _HERE / f"{BASE_NAME}-Q8_0.gguf"


def base_hf() -> Path:
    """Return the base as a Hugging Face folder in bf16, for MLX and for PEFT."""
    return _HERE / "base"


def adapters() -> dict[str, Path]:
    """Return the built-in adapters' PEFT folders by name, in alphabetical order."""
    return {path.name: path for path in sorted((_HERE / "adapters").iterdir()) if path.is_dir()}


def questions(adapter: str) -> list[Question]:
    """Return the held-out questions of a built-in adapter. KeyError for a name that is not in `adapters()`."""
    if adapter not in adapters():
        raise KeyError(adapter)
    pairs = json.loads((_HERE / "questions" / f"{adapter}.json").read_text(encoding="utf-8"))
    return [Question(pair["question"], pair["answer"]) for pair in pairs]
