"""Examples as tokens: which are learnt, and lines that the template or the tokenizer makes something else of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from edgelora.core.errors import UsageError
from edgelora.training.examples import Example
from edgelora.training.tokens import encode, encode_all

BOS, EOS = 1, 2


class Letters:
    """A tokenizer of characters, and a template that writes `role:content` and a full stop."""

    bos_token: str | None = "<s>"
    eos_token_id = EOS
    all_special_tokens = ("<s>", "</s>")

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        plain = text.removeprefix("<s>")
        return [*([BOS] if add_special_tokens or plain != text else []), *map(ord, plain)]

    def apply_chat_template(self, messages: Sequence[dict[str, Any]], **options: Any) -> list[int]:
        if any(message["content"] == "unlucky" for message in messages):
            raise RuntimeError("the template does not like this\nand says why")
        text = "".join(f"{message['role']}:{message['content']}." for message in messages)
        if options.get("add_generation_prompt"):
            text += "answer now:" if messages[-1]["content"] == "otherwise" else "assistant:"
        return [BOS, *map(ord, text)]


def chat(*contents: str) -> Example:
    roles = ("user", "assistant") * len(contents)
    return Example(
        "a.jsonl, line 1", "chat", tuple({"role": r, "content": c} for r, c in zip(roles, contents, strict=False))
    )


def text_of(tokens: Sequence[int]) -> str:
    return "".join(map(chr, tokens))


def test_the_last_answer_is_learnt() -> None:
    """The offset is where the generation prompt ends; with `learn_prompts` all is learnt."""
    found = encode(chat("hi", "yo", "and?", "well"), Letters())
    assert text_of(found.tokens[1:]) == "user:hi.assistant:yo.user:and?.assistant:well."
    assert text_of(found.tokens[found.offset :]) == "well."
    assert encode(chat("hi", "yo"), Letters(), learn_prompts=True).offset == 0


def test_text_is_learnt_as_it_stands() -> None:
    """BOS once, whoever writes it, and EOS behind it once."""
    for written in ("abc", "<s>abc"):
        found = encode(Example("a", "text", text=written), Letters())
        assert found.tokens == [BOS, *map(ord, "abc"), EOS] and found.offset == 0
    assert encode(Example("a", "text", text=f"abc{chr(EOS)}"), Letters()).tokens[-2:] == [ord("c"), EOS]


@pytest.mark.parametrize(
    ("example", "told"),
    [
        (chat("hi</s>", "yo"), "spells the control token </s>"),
        (chat("unlucky", "yo"), "the template does not like this"),
        (chat("otherwise", "yo"), "writes the prompt of this answer differently"),
        (chat("h" * 40, "yo"), "nothing of its answer is within 32 tokens"),
    ],
)
def test_lines_that_cannot_be_learnt(example: Example, told: str) -> None:
    """Each is an error that names the line; a template may raise what it likes."""
    with pytest.raises(UsageError) as caught:
        encode_all([chat("hi", "yo"), example], Letters(), learn_prompts=False, max_length=32)
    assert caught.value.code == "bad_training_data"
    assert "a.jsonl, line 1: " in caught.value.what and told in caught.value.what


def test_long_lines_are_counted() -> None:
    """What is cut is told by number."""
    found, cut = encode_all([chat("hi", "yo"), chat("hi", "y" * 99)], Letters(), learn_prompts=False, max_length=32)
    assert (len(found), cut) == (2, 1)
