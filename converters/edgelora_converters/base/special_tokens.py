"""The tokens of a base that begin a text, end it or a turn, or pad: from several files to GGUF's few keys. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgelora_models.errors import BaseError

_KNOWN_ENDS = frozenset(
    (
        *("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "<|im_end|>", "<|end|>", "<end_of_turn>"),
        *("</s>", "<EOT>", "_<EOT>"),
    )
)
"""Tokens that llama.cpp takes for an end by their text (special_eog_ids in llama-vocab.cpp)."""


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """Token ids; None where there is none. Without a begin token libllama would take the one with the id 11."""

    bos: int
    eos: int
    eot: int | None
    eom: int | None
    pad: int | None


def special_ids(
    settings: Mapping[str, Any], config: Mapping[str, Any], generation: Mapping[str, Any], tokens: Sequence[str]
) -> SpecialIds:
    """Return the special tokens of a base, from tokenizer_config.json, config.json and generation_config.json.

    A name in tokenizer_config.json goes before an id in config.json. Every token that generation_config.json (else
    config.json) ends with is an end in GGUF too. Raises BaseError (`base_tokenizer`).
    """
    ids = {token: number for number, token in enumerate(tokens)}
    listed = _listed(generation) or _listed(config)
    for number in listed:
        if not 0 <= number < len(tokens):
            raise _error(f"the end token {number} is outside its {len(tokens)} tokens")
    eos = _named(settings, "eos_token", ids)
    if eos is None:
        eos = next(iter(_listed(config) or listed), None)
    if eos is None or not 0 <= eos < len(tokens):
        raise _error("no file names its end token")
    bos = _named(settings, "bos_token", ids)
    if bos is None:
        bos = config.get("bos_token_id")
    if type(bos) is not int or not 0 <= bos < len(tokens):
        raise _error("no file names its begin token")
    eot, eom = _turn_ends(listed, eos, ids, tokens)
    return SpecialIds(bos, eos, eot, eom, _named(settings, "pad_token", ids))


def _turn_ends(
    listed: Sequence[int], eos: int, ids: Mapping[str, int], tokens: Sequence[str]
) -> tuple[int | None, int | None]:
    """GGUF has two more keys for ends; what llama.cpp knows by its text needs none."""
    eot, eom = ids.get("<|eot_id|>"), ids.get("<|eom_id|>")
    for number in listed:
        if number in (eos, eot, eom) or tokens[number] in _KNOWN_ENDS:
            continue
        if eot is None:
            eot = number
        elif eom is None:
            eom = number
        else:
            raise _error(f"it ends with more tokens than GGUF can name ({tokens[number]!r} is one too many)")
    return eot, eom


def _listed(fields: Mapping[str, Any]) -> list[int]:
    value = fields.get("eos_token_id")
    numbers = value if isinstance(value, list) else [value]
    return [number for number in numbers if type(number) is int]


def _named(settings: Mapping[str, Any], name: str, ids: Mapping[str, int]) -> int | None:
    value = settings.get(name)
    text = value.get("content") if isinstance(value, dict) else value
    if text is None:
        return None
    if not isinstance(text, str) or text not in ids:
        raise _error(f"its {name} {str(text)[:60]!r} is no token of it")
    return ids[text]


def _error(what: str) -> BaseError:
    remedy = "Use a Llama base in its original Hugging Face form."
    return BaseError("base_tokenizer", f"The base's tokenizer cannot be converted: {what}.", remedy)
