"""Tiny Hugging Face Llama checkpoints as a base's makers publish them: weights, configuration and a real tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from edgelora_converters.base.tokenizer_pipeline import LLAMA3_SPLIT
from edgelora_models.shape import LlamaShape
from tests.support.adapters import write_safetensors
from tests.support.bases import CHAT_TEMPLATE, CONTROL_TOKENS, tiny_config, tiny_weights

VOCAB = 512
"""Rows of the checkpoints here; the tokenizer has a few fewer tokens."""
BEGIN = CONTROL_TOKENS[0]
TEXT = (
    "The quick brown fox doesn't jump over the lazy dog; it's 12345 o'clock, and they'll've been there.\n\n"
    "Größe, naïve café, Ünïcödé, данные и слова, 日本語のテキスト, 한국어, 🙂🙃 and\ttabs  with   spaces. "
) * 4
NASTY = (
    *("", " ", "  ", "\n", "\r\n\r\n ", "\t\t x", "a", " a", "a ", "  two  spaces  ", "line\n\n\nline \n x"),
    *("It's THEY'LL don'T I'D we'Ve", "1234567 12,345.678 ٣٤٥ ½ Ⅷ", "x=[1,2];\n\n\treturn x", "......!!!???---"),
    *("naïve café — ‘quotes’ “double” …", "Größe GRÖSSE ẞ ß ſ", "данные, слова и ещё", "日本語のテキスト。漢字かな"),
    *("한국어 텍스트", "ไทย हिन्दी العربية עברית", "🙂🙃👩‍👩‍👧‍👦 🇩🇪", "zero\u200bwidth\u00a0nbsp\u3000wide\ufeff"),
    *("e\u0301 combining", "\u0000\u0001\u007f control", "𝔘𝔫𝔦 𝟙𝟚𝟛", "aaaaaaaaaaaaaaaa", " \n \n \n", "the the the the"),
    *("<|not_a_token|> <| eot_id |>", "http://example.org/a?b=c&d=%20#e", "'s 't 'RE ''ll", "word\u2028sep\u0085nel"),
)
"""Texts that tokenizers disagree on."""
WITH_TOKENS = ("a<|eot_id|>b", " <|start_header_id|>user<|end_header_id|>\n\n", "<tool>x</tool>", "the<tool>the")
"""Texts with added tokens in them: control ones, and `<tool>`, which is text to people."""


@cache
def llama3_tokenizer(*, whole: bool = True) -> Tokenizer:
    """Byte-level BPE split as Llama 3's. `whole`: a piece that is a token is taken whole (ignore_merges)."""
    split = pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return _trained(models.BPE(ignore_merges=whole), pre_tokenizers.Sequence([split, level]))


@cache
def gpt2_tokenizer() -> Tokenizer:
    """Byte-level BPE with GPT-2's own split."""
    return _trained(models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False))


def _trained(model: models.BPE, before: Any) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = before
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=480, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS])
    tokenizer.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    adding = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), adding])
    return tokenizer


def write_tokenizer(folder: Path, tokenizer: Tokenizer | None = None) -> None:
    """tokenizer.json, tokenizer_config.json, chat_template.jinja and generation_config.json."""
    tokenizer = tokenizer or llama3_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": BEGIN, "eos_token": "<|end_of_text|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    ends = [tokenizer.token_to_id(token) for token in ("<|end_of_text|>", "<|eot_id|>")]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))


def write_checkpoint(
    folder: Path,
    shape: LlamaShape,
    *,
    seed: int = 0,
    dtype: str = "F32",
    shards: int = 1,
    config: Mapping[str, Any] | None = None,
    weights: Mapping[str, NDArray[np.float32]] | None = None,
) -> Path:
    """A checkpoint with `tiny_weights` (or these), stored as `dtype`; `config` are changes to its config.json."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(tiny_config(shape) | dict(config or {})))
    write_tokenizer(folder)
    write_weights(folder, weights or tiny_weights(shape, seed=seed), dtype=dtype, shards=shards)
    return folder


def write_weights(
    folder: Path, weights: Mapping[str, NDArray[np.float32]], *, dtype: str = "F32", shards: int = 1
) -> None:
    """One model.safetensors, or shards with an index, the tensors dealt out in turn."""
    if shards == 1:
        write_safetensors(folder / "model.safetensors", weights, dtype=dtype)
        return
    index: dict[str, str] = {}
    for number in range(shards):
        name = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(list(weights.items())[number::shards])
        write_safetensors(folder / name, part, dtype=dtype)
        index |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None removes one."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def left_behind(folder: Path, known: Sequence[str] = ()) -> list[str]:
    """What is in `folder` beside `known`, hidden files too."""
    return sorted(path.name for path in folder.iterdir() if path.name not in known)
