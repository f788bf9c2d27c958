"""The tokenizer and chat template of a base, from Hugging Face files to GGUF keys. Owns no weights.

Only byte-level BPE with Llama-3's split pattern is taken: llama.cpp knows that one by the name "llama-bpe", and a
tokenizer with another pattern would be cut differently there without any error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgelora_models.errors import BaseError

if TYPE_CHECKING:
    from gguf import GGUFWriter

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# llama.cpp's token types.
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4


def base_error(code: str, what: str) -> BaseError:
    """A base that cannot be expressed: the remedy is always another base."""
    return BaseError(code, what, "Use a Llama base in its original Hugging Face form.")


def add_vocabulary(writer: GGUFWriter, folder: Path, vocab: int) -> None:
    """Add the tokenizer.* keys for the folder's tokenizer, padded to `vocab` entries. Raises BaseError."""
    tokenizer = _read_json(folder / "tokenizer.json")
    config = _read_json(folder / "tokenizer_config.json")
    _check_split(tokenizer)
    tokens, types = _tokens(tokenizer, vocab)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(_merges(tokenizer))
    _add_special_ids(writer, config, {token: number for number, token in enumerate(tokens)})
    template = _chat_template(folder, config)
    if template:
        writer.add_chat_template(template)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise base_error("base_tokenizer", f"{path} cannot be read: {error}.") from error
    return content


def _check_split(tokenizer: Mapping[str, Any]) -> None:
    model = tokenizer.get("model") or {}
    before = tokenizer.get("pre_tokenizer") or {}
    steps = before.get("pretokenizers") or [before]
    patterns = [step.get("pattern", {}).get("Regex") for step in steps if step.get("type") == "Split"]
    if model.get("type") != "BPE" or not model.get("ignore_merges") or patterns != [LLAMA3_SPLIT]:
        raise base_error("base_tokenizer", "The base's tokenizer is not Llama 3's byte-level BPE.")
    if tokenizer.get("normalizer"):
        raise base_error("base_tokenizer", "The base's tokenizer normalizes text, which llama.cpp would not.")


def _tokens(tokenizer: Mapping[str, Any], vocab: int) -> tuple[list[str], list[int]]:
    """Token strings and types in id order; ids without a token become unused control tokens."""
    by_id: dict[int, tuple[str, int]] = {
        number: (text, _NORMAL) for text, number in tokenizer["model"]["vocab"].items()
    }
    for added in tokenizer.get("added_tokens", []):
        by_id[added["id"]] = (added["content"], _CONTROL if added["special"] else _USER_DEFINED)
    if by_id and max(by_id) >= vocab:
        raise base_error("base_tokenizer", f"The tokenizer has the id {max(by_id)}, but the base only {vocab} rows.")
    entries = [by_id.get(number, (f"[PAD{number}]", _CONTROL)) for number in range(vocab)]
    return [text for text, _ in entries], [kind for _, kind in entries]


def _merges(tokenizer: Mapping[str, Any]) -> list[str]:
    merges = tokenizer["model"]["merges"]
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]


def _add_special_ids(writer: GGUFWriter, config: Mapping[str, Any], ids: Mapping[str, int]) -> None:
    def token_id(name: str) -> int | None:
        value = config.get(name)
        return ids.get(value["content"] if isinstance(value, dict) else value or "")

    bos, eos, pad = (token_id(name) for name in ("bos_token", "eos_token", "pad_token"))
    if bos is None or eos is None:
        raise base_error("base_tokenizer", "tokenizer_config.json names no begin or end token.")
    writer.add_bos_token_id(bos)
    writer.add_eos_token_id(eos)
    if "<|eot_id|>" in ids:
        writer.add_eot_token_id(ids["<|eot_id|>"])
    if "<|eom_id|>" in ids:
        writer.add_eom_token_id(ids["<|eom_id|>"])
    if pad is not None:
        writer.add_pad_token_id(pad)
    writer.add_add_bos_token(True)


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = config.get("chat_template")
    return template if isinstance(template, str) else None
