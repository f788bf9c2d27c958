"""The stages of a tokenizer.json: what each may be for llama.cpp to do the same. Pure; raises nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_MODEL_OFF = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
"""Options of BPE that change pieces and that llama.cpp does not have."""


def check_pipeline(tokenizer: Mapping[str, Any]) -> str | None:
    """Return why the stages other than the split are no plain byte-level BPE; None if they are."""
    model = tokenizer.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
        return "its model is not BPE"
    if odd := [name for name in _MODEL_OFF if model.get(name)]:
        return f"its model has {', '.join(odd)}"
    if tokenizer.get("normalizer"):
        return "it normalizes text, which llama.cpp would not"
    decoder = tokenizer.get("decoder")
    if decoder and (not isinstance(decoder, dict) or decoder.get("type") != "ByteLevel"):
        return "its decoder is not the one of byte-level BPE"
    added = tokenizer.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        return "its added_tokens are no list of objects"
    if any(byte not in model["vocab"] for byte in byte_alphabet()):
        return "it has no token for some byte"
    return None


def byte_alphabet() -> list[str]:
    """Return the visible character that byte-level BPE writes for each byte 0..255."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(256, 512))
    return [chr(byte if byte in visible else next(hidden)) for byte in range(256)]


def pre_name(tokenizer: Mapping[str, Any]) -> str | None:
    """llama.cpp's name for how text is split and merged; None where it has none.

    `llama-bpe` takes a piece that is a token whole, whatever the merges say (ignore_merges); `smaug-bpe` splits alike
    and merges; `gpt-2` is GPT-2's own split. (llama-vocab.cpp.)
    """
    ignores_merges = tokenizer["model"].get("ignore_merges", False)
    before = tokenizer.get("pre_tokenizer")
    if _is_byte_level(before, own_split=True):
        return None if ignores_merges else "gpt-2"
    steps = before.get("pretokenizers") if isinstance(before, dict) and before.get("type") == "Sequence" else None
    if not isinstance(steps, list) or len(steps) != 2 or not _is_llama3_split(steps[0]):
        return None
    if not _is_byte_level(steps[1], own_split=False):
        return None
    return "llama-bpe" if ignores_merges else "smaug-bpe"


def _is_byte_level(step: Any, *, own_split: bool) -> bool:
    if not isinstance(step, dict) or step.get("type") != "ByteLevel":
        return False
    return step.get("add_prefix_space") is False and step.get("use_regex", True) is own_split


def _is_llama3_split(step: Any) -> bool:
    if not isinstance(step, dict) or step.get("type") != "Split" or step.get("pattern") != {"Regex": LLAMA3_SPLIT}:
        return False
    return step.get("behavior") == "Isolated" and step.get("invert", False) is False


def wrapping(processor: Any) -> tuple[list[int], list[int]] | None:
    """Return the ids a post-processor puts before and behind a text; None where that is not all it does."""
    if not processor:
        return [], []
    if not isinstance(processor, dict):
        return None
    if processor.get("type") == "ByteLevel":  # offsets only
        return [], []
    if processor.get("type") == "Sequence":
        parts = [wrapping(part) for part in processor.get("processors") or []]
        adding = [part for part in parts if part != ([], [])]
        return adding[0] if len(adding) == 1 else None if adding else ([], [])
    if processor.get("type") == "TemplateProcessing":
        return _template(processor)
    return None


def _template(processor: Mapping[str, Any]) -> tuple[list[int], list[int]] | None:
    before: list[int] = []
    behind: list[int] = []
    seen = False
    for piece in processor.get("single") or []:
        if "Sequence" in piece and not seen:
            seen = True
        elif "SpecialToken" in piece:
            special = (processor.get("special_tokens") or {}).get(piece["SpecialToken"].get("id")) or {}
            (behind if seen else before).extend(special.get("ids") or [-1])
        else:
            return None
    return (before, behind) if seen else None
