"""The examples of a training: JSON lines, checked, each known by its file and line. Owns no token and no template.

The three forms are mlx-lm's: `{"messages": [{"role", "content"}, ...]}` (and `tools`), `{"prompt", "completion"}`, and
`{"text"}`, which is learnt as it stands. A folder holds train.jsonl and, where wanted, valid.jsonl.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgelora.core.errors import UsageError
from edgelora_models.storage import storing

Form = Literal["chat", "completion", "text"]
ROLES = frozenset({"system", "user", "assistant", "tool"})
TOLD = 5
"""Bad lines that an error lists."""
REMEDY = "Each line is one JSON object with `messages`, or `prompt` and `completion`, or `text`."


@dataclass(frozen=True, slots=True)
class Example:
    where: str
    """`train.jsonl, line 3`."""
    form: Form
    messages: tuple[dict[str, Any], ...] = ()
    """The messages of a chat; a prompt and its completion are a chat of two."""
    tools: list[Any] | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Examples:
    """The examples for training and for validation."""

    training: tuple[Example, ...]
    validation: tuple[Example, ...]
    digest: str
    """sha256 hex of the files, as read."""


class Problems:
    """Bad examples, gathered so that one error names all."""

    def __init__(self) -> None:
        self._found: list[str] = []

    def add(self, where: str, what: str) -> None:
        self._found.append(f"{where}: {what}")

    def check(self) -> None:
        """Raise UsageError where there are any."""
        if not self._found:
            return
        more = f"; {len(self._found)} such lines in all" if len(self._found) > TOLD else ""
        message = f"The training data is not usable. {'; '.join(self._found[:TOLD])}{more}."
        raise UsageError("bad_training_data", message, REMEDY, param="data")


def read_examples(source: Path, *, share: float, seed: int) -> Examples:
    """The examples in a JSONL file, or a folder with train.jsonl. Without a valid.jsonl a random `share` of them is
    kept for validation, at least one where there are two.

    Raises UsageError (path_not_found, bad_training_data naming lines), StorageError.
    """
    files = _files(source)
    problems = Problems()
    digest = hashlib.sha256()
    read = [tuple(_read(path, problems, digest.update)) for path in files]
    problems.check()
    if not read[0]:
        problems.add(files[0].name, "it holds no example")
    for example in (example for from_file in read for example in from_file):
        if example.form != read[0][0].form:
            problems.add(example.where, f"it is {_named(example.form)}, the first line is {_named(read[0][0].form)}")
    problems.check()
    training, validation = (read[0], read[1]) if len(read) == 2 else _split(read[0], share, seed)
    return Examples(training, validation, digest.hexdigest())


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    train, valid = source / "train.jsonl", source / "valid.jsonl"
    if not train.is_file():
        message = f"There is no {train if source.is_dir() else source}."
        raise UsageError("path_not_found", message, "Give a JSONL file, or a folder with train.jsonl.", param="data")
    return [train, valid] if valid.is_file() else [train]


def _read(path: Path, problems: Problems, digested: Callable[[bytes], object]) -> Iterator[Example]:
    digested(path.name.encode() + b"\0")
    with storing(path), path.open("rb") as file:
        for number, line in enumerate(file, 1):
            digested(line)
            where = f"{path.name}, line {number}"
            if not line.strip():
                continue
            try:
                yield _example(where, json.loads(line))
            except UnicodeDecodeError:
                problems.add(where, "it is not UTF-8")
            except json.JSONDecodeError as error:
                problems.add(where, f"it is not JSON ({error.msg} at column {error.colno})")
            except ValueError as error:
                problems.add(where, str(error))


def _example(where: str, fields: Any) -> Example:
    """Raises ValueError saying what is wrong."""
    if not isinstance(fields, dict):
        raise ValueError("it is not an object")
    if "prompt" in fields and "completion" in fields:
        user, assistant = (_text(fields, name) for name in ("prompt", "completion"))
        pair = ({"role": "user", "content": user}, {"role": "assistant", "content": assistant})
        return Example(where, "completion", pair, _tools(fields))
    if "messages" in fields:
        return Example(where, "chat", _messages(fields["messages"]), _tools(fields))
    if "text" in fields:
        return Example(where, "text", text=_text(fields, "text"))
    raise ValueError("it has neither `messages` nor `prompt` and `completion` nor `text`")


def _text(fields: dict[str, Any], name: str) -> str:
    text = fields[name]
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"its {name} is no text")
    return text


def _tools(fields: dict[str, Any]) -> list[Any] | None:
    tools = fields.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise ValueError("its tools are no list")
    return tools or None


def _messages(value: Any) -> tuple[dict[str, Any], ...]:
    if not isinstance(value, list) or not value:
        raise ValueError("its messages are no list of messages")
    for number, message in enumerate(value, 1):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise ValueError(f"message {number} has no role of {', '.join(sorted(ROLES))}")
        if "weight" in message:
            raise ValueError(f"message {number} has a weight, which would be ignored")
        if not isinstance(message.get("content"), str) and not message.get("tool_calls"):
            raise ValueError(f"message {number} has no text as its content")
    if value[-1]["role"] != "assistant":
        raise ValueError(f"its last message is the {value[-1]['role']}'s, so there is no answer to learn")
    return tuple(value)


def _split(examples: Sequence[Example], share: float, seed: int) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Return the same split for the same seed, both parts in the order of the file."""
    count = min(len(examples) - 1, max(1, round(share * len(examples)))) if share else 0
    kept = set(random.Random(seed).sample(range(len(examples)), count))
    training = tuple(example for n, example in enumerate(examples) if n not in kept)
    return training, tuple(example for n, example in enumerate(examples) if n in kept)


def _named(form: Form) -> str:
    return {"chat": "`messages`", "completion": "`prompt` and `completion`", "text": "`text`"}[form]
