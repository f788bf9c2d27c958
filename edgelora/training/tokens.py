"""Examples as token ids, by the base's own tokenizer and chat template. Owns which of the tokens are learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from edgelora.training.examples import Example, Problems


class ChatTokenizer(Protocol):
    """The used part of the tokenizer that mlx-lm loads (a wrapper of transformers' own)."""

    bos_token: str | None
    eos_token_id: int
    all_special_tokens: Sequence[str]

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...

    def apply_chat_template(self, messages: Sequence[dict[str, Any]], **options: Any) -> list[int]: ...


class Encoded(NamedTuple):
    tokens: list[int]
    offset: int
    """Number of first tokens that are prompt, which is not learnt."""


def encode_all(
    examples: Sequence[Example], tokenizer: ChatTokenizer, *, learn_prompts: bool, max_length: int
) -> tuple[list[Encoded], int]:
    """Every example, and how many of them are longer than `max_length` and will be cut.

    Raises UsageError (bad_training_data) naming the lines that the template cannot take, that spell a control token,
    or of whose answer nothing is left within `max_length`.
    """
    problems = Problems()
    encoded = []
    for example in examples:
        try:
            encoded_example = encode(example, tokenizer, learn_prompts=learn_prompts)
        except Exception as error:  # a template may raise anything, and it is the line that has to be told
            problems.add(example.where, _said(error))
            continue
        if encoded_example.offset >= min(len(encoded_example.tokens), max_length):
            longer = f"nothing of its answer is within {max_length} tokens (--max-length)"
            problems.add(example.where, longer if len(encoded_example.tokens) > max_length else "its answer is empty")
        encoded.append(encoded_example)
    problems.check()
    return encoded, sum(len(encoded_one.tokens) > max_length for encoded_one in encoded)


def encode(example: Example, tokenizer: ChatTokenizer, *, learn_prompts: bool = False) -> Encoded:
    """Encode an example. Raises ValueError, or whatever its template raises."""
    if example.form == "text":
        return Encoded(_text(example.text, tokenizer), 0)
    _check_control(example, tokenizer)
    messages = list(example.messages)
    tokens = _chat(tokenizer, messages, example.tools)
    if learn_prompts:
        return Encoded(tokens, 0)
    prompt = _chat(tokenizer, messages[:-1], example.tools, add_generation_prompt=True)
    if tokens[: len(prompt)] != prompt:
        raise ValueError("the chat template writes the prompt of this answer differently when it is asked for one")
    return Encoded(tokens, len(prompt))


def _text(text: str, tokenizer: ChatTokenizer) -> list[int]:
    """With BOS where the tokenizer writes one and the text does not, and EOS behind it."""
    spelled = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token or "")
    tokens = list(tokenizer.encode(text, add_special_tokens=not spelled))
    return tokens if tokens[-1:] == [tokenizer.eos_token_id] else [*tokens, tokenizer.eos_token_id]


def _chat(
    tokenizer: ChatTokenizer, messages: list[dict[str, Any]], tools: list[Any] | None, **options: Any
) -> list[int]:
    return list(tokenizer.apply_chat_template(messages, tools=tools, tokenize=True, return_dict=False, **options))


def _check_control(example: Example, tokenizer: ChatTokenizer) -> None:
    """The tokenizer would read it as the control token, and at run time it is plain text: not the same prompt."""
    for message in example.messages:
        text = message.get("content") or ""
        if control := next((token for token in tokenizer.all_special_tokens if token in text), None):
            raise ValueError(f"a message spells the control token {control}, which only the chat template may write")


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
