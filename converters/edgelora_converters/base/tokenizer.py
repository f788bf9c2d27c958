"""A checkpoint's tokenizer as llama.cpp would run it: read, and refused where llama.cpp would cut a text differently.

Owns what byte-level BPE of tokenizer.json can be said in GGUF; writes nothing (`base_vocab`) and tokenises nothing.
llama.cpp knows split patterns by name only, so a pattern without a name there cannot be converted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgelora_converters.base.special_tokens import SpecialIds, special_ids
from edgelora_converters.base.tokenizer_pipeline import check_pipeline, pre_name, wrapping
from edgelora_models.errors import BaseError
from edgelora_models.files import quoted, read_json
from edgelora_models.hf_tokenizer import MAX_TOKENIZER_BYTES, TOKENIZER_CONFIG_NAME, TOKENIZER_NAME, read_template

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
"""llama.cpp's token types."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The values of all `tokenizer.` keys in a GGUF base."""

    pre: str
    """llama.cpp's name of the split pattern."""
    tokens: list[str]
    """In id order, one for each row of the embedding."""
    types: list[int]
    merges: list[str]
    special: SpecialIds
    add_bos: bool
    add_eos: bool
    template: str | None


def tokenizer_error(what: str) -> BaseError:
    """Return the error for a tokenizer that GGUF cannot express, or that contradicts itself."""
    remedy = "Use a Llama base with Llama 3's tokenizer, in its original Hugging Face form."
    return BaseError("base_tokenizer", f"The base's tokenizer cannot be converted: {what}.", remedy)


def read_vocabulary(folder: Path, vocab: int, config: Mapping[str, Any]) -> Vocabulary:
    """Read the tokenizer and chat template of `folder`, padded to `vocab` entries; `config` is its config.json.

    Raises BaseError (`base_tokenizer`) for anything llama.cpp would do differently, StorageError for the disk.
    """
    tokenizer = read_json(folder / TOKENIZER_NAME, limit=MAX_TOKENIZER_BYTES, error=BaseError)
    settings = _optional(folder / TOKENIZER_CONFIG_NAME)
    if odd := check_pipeline(tokenizer):
        raise tokenizer_error(odd)
    pre = pre_name(tokenizer)
    if pre is None:
        raise tokenizer_error("it is neither Llama 3's byte-level BPE nor GPT-2's")
    tokens, types = _tokens(tokenizer, vocab)
    _check_added(tokenizer, settings)
    ids = {token: number for number, token in enumerate(tokens)}
    special = special_ids(settings, config, _optional(folder / "generation_config.json"), tokens)
    add_bos, add_eos = _wrapping(tokenizer, settings, special)
    return Vocabulary(pre, tokens, types, _merges(tokenizer, ids), special, add_bos, add_eos, read_template(folder))


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path, limit=MAX_TOKENIZER_BYTES, error=BaseError) if path.exists() else {}


def _tokens(tokenizer: Mapping[str, Any], vocab: int) -> tuple[list[str], list[int]]:
    """Token strings and types in id order; ids without a token become unused control tokens."""
    by_id: dict[int, tuple[str, int]] = {}
    for text, number in tokenizer["model"]["vocab"].items():
        _place(by_id, number, text, NORMAL)
    for added in tokenizer.get("added_tokens") or []:
        if any(added.get(flag) for flag in ("lstrip", "rstrip", "single_word")):
            raise tokenizer_error(f"the token {quoted(str(added.get('content')))} takes in what stands around it")
        _place(by_id, added.get("id"), added.get("content"), CONTROL if added.get("special") else USER_DEFINED)
    if by_id and max(by_id) >= vocab:
        raise tokenizer_error(f"it has the id {max(by_id)}, but the base only {vocab} rows")
    entries = [by_id.get(number, (f"[PAD{number}]", CONTROL)) for number in range(vocab)]
    tokens = [text for text, _ in entries]
    if len(set(tokens)) != vocab:
        raise tokenizer_error("two ids have the same token")  # libllama aborts on it
    return tokens, [kind for _, kind in entries]


def _place(by_id: dict[int, tuple[str, int]], number: Any, text: Any, kind: int) -> None:
    if type(number) is not int or number < 0 or not isinstance(text, str) or not text:
        raise tokenizer_error(f"the token {quoted(str(text))} has the id {str(number)[:20]}")
    if by_id.get(number, (text, kind))[0] != text:
        raise tokenizer_error(f"the id {number} is {quoted(by_id[number][0])} and {quoted(text)}")
    by_id[number] = (text, kind)


def _check_added(tokenizer: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """transformers adds what tokenizer_config.json lists over what tokenizer.json has: the two must agree."""
    contents = {str(added["id"]): added["content"] for added in tokenizer.get("added_tokens") or []}
    listed = settings.get("added_tokens_decoder") or {}
    for number, added in listed.items():
        content = added.get("content") if isinstance(added, dict) else None
        if contents.get(number) != content:
            raise tokenizer_error(
                f"{TOKENIZER_CONFIG_NAME} says that {quoted(str(content))} is {number}, {TOKENIZER_NAME} does not"
            )


def _merges(tokenizer: Mapping[str, Any], ids: Mapping[str, int]) -> list[str]:
    """Return the merges as `left right`, from that form or from pairs."""
    merges = []
    for merge in tokenizer["model"].get("merges") or []:
        halves = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(halves, list) or len(halves) != 2 or not all(isinstance(half, str) for half in halves):
            raise tokenizer_error(f"the merge {quoted(str(merge))} is no pair")
        if not all(part in ids for part in (*halves, "".join(halves))):
            raise tokenizer_error(f"the merge {quoted(str(merge))} is of tokens it has not")
        merges.append(" ".join(halves))
    if not merges:
        raise tokenizer_error("it has no merges, which llama.cpp cannot load")
    return merges


def _wrapping(tokenizer: Mapping[str, Any], settings: Mapping[str, Any], special: SpecialIds) -> tuple[bool, bool]:
    """Return whether the beginning and the end token are put around a text."""
    wrapped = wrapping(tokenizer.get("post_processor"))
    if wrapped is None:
        raise tokenizer_error("its post-processor does more than to add a begin and an end token")
    for ids, token, key in zip(wrapped, (special.bos, special.eos), ("add_bos_token", "add_eos_token"), strict=True):
        if ids not in ([], [token]):
            raise tokenizer_error(f"it adds the ids {ids}, which are no begin or end token")
        if isinstance(settings.get(key), bool) and settings[key] is not bool(ids):
            raise tokenizer_error(f"{TOKENIZER_CONFIG_NAME} says {key}: {settings[key]}, its post-processor does not")
    return bool(wrapped[0]), bool(wrapped[1])
