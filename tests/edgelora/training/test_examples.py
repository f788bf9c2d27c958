"""Training data: three forms, one a file; what is wrong is told by line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgelora.core.errors import UsageError
from edgelora.training.examples import Example, read_examples

GOOD = {"prompt": "What is a cat?", "completion": "An animal."}


def chat(*roles: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": f"{role} says"} for role in roles], **more}


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def refused(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        read_examples(path, share=0.0, seed=0)
    assert caught.value.code == "bad_training_data"
    return caught.value.what


def test_the_three_forms(tmp_path: Path) -> None:
    """A prompt with its completion is a chat of two; blank lines are none; other keys mean nothing to mlx-lm either."""
    pair, talk, text = (tmp_path / name for name in ("pair.jsonl", "chat.jsonl", "text.jsonl"))
    write(pair, GOOD, "", GOOD | {"id": 7})
    messages = ({"role": "user", "content": "What is a cat?"}, {"role": "assistant", "content": "An animal."})
    found = read_examples(pair, share=0.0, seed=0)
    assert found.training == tuple(Example(f"pair.jsonl, line {n}", "completion", messages) for n in (1, 3))
    assert found.validation == ()
    write(talk, chat("system", "user", "assistant", tools=[{"type": "function"}]))
    (example,) = read_examples(talk, share=0.0, seed=0).training
    assert [message["role"] for message in example.messages] == ["system", "user", "assistant"] and example.tools
    write(text, {"text": "As it stands."})
    (example,) = read_examples(text, share=0.0, seed=0).training
    assert (example.form, example.text) == ("text", "As it stands.")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "not JSON"),
        ("\udcff", "not UTF-8"),
        ("[1]", "not an object"),
        ({"question": "?"}, "neither"),
        (GOOD | {"completion": " "}, "its completion is no text"),
        (GOOD | {"prompt": 3}, "its prompt is no text"),
        ({"messages": []}, "no list of messages"),
        (chat("user", "robot"), "message 2 has no role"),
        ({"messages": [{"role": "assistant", "content": None}]}, "message 1 has no text"),
        (chat("assistant", "user"), "its last message is the user's"),
        ({"messages": [{"role": "assistant", "content": "a", "weight": 0}]}, "would be ignored"),
        (chat("user", "assistant"), "it is `messages`, the first line is `prompt` and `completion`"),
        (GOOD | {"tools": "hammer"}, "its tools are no list"),
    ],
)
def test_a_bad_line_is_named(line: object, told: str, tmp_path: Path) -> None:
    """By file and line, with what is wrong with it."""
    path = tmp_path / "train.jsonl"
    text = line if isinstance(line, str) else json.dumps(line)
    path.write_bytes(f"{json.dumps(GOOD)}\n{text}\n".encode(errors="surrogateescape"))
    assert (said := refused(path)).startswith("The training data is not usable. train.jsonl, line 2: ") and told in said


def test_many_bad_lines(tmp_path: Path) -> None:
    """All are found at once; the first few are told, and how many they are."""
    said = refused(write(tmp_path / "a.jsonl", *["x"] * 9))
    assert said.count("line ") == 5 and "9 such lines in all" in said


def test_a_folder(tmp_path: Path) -> None:
    """train.jsonl, and valid.jsonl for validation; the digest is of both."""
    write(tmp_path / "train.jsonl", GOOD, GOOD)
    alone = read_examples(tmp_path, share=0.0, seed=0)
    write(tmp_path / "valid.jsonl", GOOD)
    both = read_examples(tmp_path, share=0.5, seed=0)
    assert (len(both.training), len(both.validation)) == (2, 1) and both.digest != alone.digest
    assert "valid.jsonl, line 1" in refused_folder(tmp_path, "oops")


def refused_folder(folder: Path, line: str) -> str:
    write(folder / "valid.jsonl", line)
    return refused(folder)


def test_a_share_is_split_off(tmp_path: Path) -> None:
    """The same one for the same seed, and never the only example."""
    path = write(tmp_path / "a.jsonl", *[{"text": f"number {n}"} for n in range(20)])
    first, again, other = (read_examples(path, share=0.25, seed=seed) for seed in (1, 1, 2))
    assert first == again and first.validation != other.validation
    assert (len(first.training), len(first.validation)) == (15, 5)
    assert {example.text for example in (*first.training, *first.validation)} == {f"number {n}" for n in range(20)}
    single = read_examples(write(tmp_path / "one.jsonl", GOOD), share=0.5, seed=0)
    assert (len(single.training), len(single.validation)) == (1, 0)


def test_nothing_there(tmp_path: Path) -> None:
    """An empty file, a folder without examples, and a path that is not there say so."""
    assert "holds no example" in refused(write(tmp_path / "a.jsonl"))
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError) as caught:
            read_examples(path, share=0.0, seed=0)
        assert caught.value.code == "path_not_found"
