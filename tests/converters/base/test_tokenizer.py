"""Tokenizers on the way to GGUF: llama.cpp cuts every text as tokenizers does, or the tokenizer is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from tokenizers import Tokenizer

from edgelora_converters.base.gguf import write_base_gguf
from edgelora_converters.base.tokenizer import CONTROL, USER_DEFINED, read_vocabulary
from edgelora_converters.base.tokenizer_pipeline import byte_alphabet
from edgelora_models.errors import BaseError
from tests.support import bases
from tests.support.bases import CHAT_TEMPLATE, CONTROL_TOKENS
from tests.support.checkpoints import (
    NASTY,
    VOCAB,
    WITH_TOKENS,
    edit,
    gpt2_tokenizer,
    llama3_tokenizer,
    write_checkpoint,
    write_tokenizer,
)
from tests.support.lora import GQA

SHAPE = replace(GQA, vocab=VOCAB)
KINDS: dict[str, Callable[[], Tokenizer]] = {
    "llama-bpe": llama3_tokenizer,
    "smaug-bpe": lambda: llama3_tokenizer(whole=False),
    "gpt-2": gpt2_tokenizer,
}


@contextmanager
def native_vocabulary(path: Path) -> Iterator[Any]:
    """llama.cpp's vocabulary of a GGUF file, without its weights."""
    llama_cpp.llama_backend_init()
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    assert model is not None
    try:
        yield llama_cpp.llama_model_get_vocab(model)
    finally:
        llama_cpp.llama_model_free(model)


def native_ids(vocabulary: Any, text: str) -> list[int]:
    """With what the file says is put around a text, and added tokens found in it, as tokenizers does."""
    data = text.encode()
    ids = (llama_cpp.llama_token * (len(data) + 8))()
    count = llama_cpp.llama_tokenize(vocabulary, data, len(data), ids, len(ids), True, True)
    return list(ids[:count])


@pytest.mark.parametrize("kind", KINDS)
def test_every_text_is_cut_alike(tmp_path: Path, kind: str) -> None:
    """Unicode, spaces, digits, quotes, added tokens and a begin token: the ids are tokenizers' own."""
    tokenizer = KINDS[kind]()
    folder = write_checkpoint(tmp_path / "base", SHAPE)
    write_tokenizer(folder, tokenizer)
    write_base_gguf(folder, tmp_path / "base.gguf", quantization="F32")
    with native_vocabulary(tmp_path / "base.gguf") as vocabulary:
        for text in (*NASTY, *WITH_TOKENS):
            assert native_ids(vocabulary, text) == tokenizer.encode(text).ids, repr(text)


def test_the_split_and_merges_are_known(tmp_path: Path) -> None:
    """Each kind has its own name, and the kinds cut differently, so that a wrong name would be seen."""
    assert gpt2_tokenizer().encode("12345").tokens != llama3_tokenizer().encode("12345").tokens
    for kind, tokenizer in KINDS.items():
        folder = write_checkpoint(tmp_path / kind, SHAPE)
        write_tokenizer(folder, tokenizer())
        assert read_vocabulary(folder, VOCAB, {}).pre == kind


def test_whole_pieces(tmp_path: Path) -> None:
    """A token that no merges lead to is found only where pieces are taken whole."""
    for whole, kind in ((True, "llama-bpe"), (False, "smaug-bpe")):
        folder = write_checkpoint(tmp_path / kind, SHAPE)
        write_tokenizer(folder, llama3_tokenizer(whole=whole))
        content = json.loads((folder / "tokenizer.json").read_text())
        content["model"]["vocab"]["xyzzy"] = 500
        (folder / "tokenizer.json").write_text(json.dumps(content))
        write_base_gguf(folder, tmp_path / f"{kind}.gguf", quantization="F32")
        wanted = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("xyzzy").ids
        assert (500 in wanted) is whole
        with native_vocabulary(tmp_path / f"{kind}.gguf") as vocabulary:
            assert native_ids(vocabulary, "xyzzy") == wanted


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "base", SHAPE)


def test_tokens_and_types(folder: Path) -> None:
    """Control tokens are control, other added ones user-defined, rows without a token unused control tokens."""
    vocabulary = read_vocabulary(folder, VOCAB, {})
    kinds = dict(zip(vocabulary.tokens, vocabulary.types, strict=True))
    assert {kinds[token] for token in CONTROL_TOKENS} == {CONTROL}
    assert kinds["<tool>"] == USER_DEFINED
    assert (vocabulary.tokens[-1], vocabulary.types[-1]) == (f"[PAD{VOCAB - 1}]", CONTROL)
    assert vocabulary.add_bos and not vocabulary.add_eos
    assert vocabulary.template == CHAT_TEMPLATE


def test_merges_in_both_forms(folder: Path) -> None:
    """Newer tokenizer.json files list merges as pairs, older ones as `left right`."""
    content = json.loads((folder / "tokenizer.json").read_text())
    wanted = read_vocabulary(folder, VOCAB, {}).merges
    pairs = content["model"]["merges"]
    for form in ([" ".join(pair) for pair in pairs], [list(pair) for pair in pairs]):
        content["model"]["merges"] = form
        (folder / "tokenizer.json").write_text(json.dumps(content))
        assert read_vocabulary(folder, VOCAB, {}).merges == wanted
    assert len(wanted) > 100


def test_special_ids(folder: Path) -> None:
    """Begin and end by name, else by id; every end of generation_config.json is an end in GGUF."""
    tokens = read_vocabulary(folder, VOCAB, {}).tokens
    special = read_vocabulary(folder, VOCAB, {}).special
    assert [tokens[n] for n in (special.bos, special.eos)] == ["<|begin_of_text|>", "<|end_of_text|>"]
    assert special.eot == tokens.index("<|eot_id|>") and special.eom == tokens.index("<|eom_id|>")
    edit(folder / "tokenizer_config.json", bos_token=None, eos_token=None, pad_token={"content": "<tool>"})
    config = {"bos_token_id": special.bos, "eos_token_id": [special.eot, special.eos]}
    other = read_vocabulary(folder, VOCAB, config).special
    assert (other.bos, other.eos, other.pad) == (special.bos, special.eot, tokens.index("<tool>"))


def test_more_ends_than_keys(folder: Path) -> None:
    """GGUF names an end of text, of turn and of message; a fourth that llama.cpp does not know would run on."""
    edit(folder / "generation_config.json", eos_token_id=[0, 1])
    with pytest.raises(BaseError, match="one too many"):
        read_vocabulary(folder, VOCAB, {})


def test_templates(folder: Path) -> None:
    """chat_template.jinja goes before tokenizer_config.json, whose list has a default."""
    listed = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    edit(folder / "tokenizer_config.json", chat_template=listed)
    assert read_vocabulary(folder, VOCAB, {}).template == CHAT_TEMPLATE
    (folder / "chat_template.jinja").unlink()
    assert read_vocabulary(folder, VOCAB, {}).template == "D"
    edit(folder / "tokenizer_config.json", chat_template=None)
    assert read_vocabulary(folder, VOCAB, {}).template is None


def test_nothing_around_a_text(folder: Path, tmp_path: Path) -> None:
    """Without a post-processor no begin token is added, in llama.cpp neither."""
    edit(folder / "tokenizer.json", post_processor=None)
    write_base_gguf(folder, tmp_path / "base.gguf", quantization="F32")
    with native_vocabulary(tmp_path / "base.gguf") as vocabulary:
        assert native_ids(vocabulary, "a") == Tokenizer.from_file(str(folder / "tokenizer.json")).encode("a").ids


def change(content: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        content = content[int(parent)] if isinstance(content, list) else content[parent]
    content[int(last) if isinstance(content, list) else last] = value  # type: ignore[index]


SPM = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}
BYTES = {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("model.type", "Unigram", "not BPE"),
        ("model.byte_fallback", True, "byte_fallback"),
        ("model.dropout", 0.1, "dropout"),
        ("model.end_of_word_suffix", "</w>", "end_of_word_suffix"),
        ("model.merges", [], "no merges"),
        ("model.merges", [["a", "nowhere"]], "nowhere"),
        ("model.merges", ["a b c"], "no pair"),
        ("normalizer", {"type": "NFC"}, "normalizes"),
        ("decoder", {"type": "Metaspace"}, "decoder"),
        ("pre_tokenizer", SPM, "neither"),
        ("pre_tokenizer", BYTES, "neither"),
        ("pre_tokenizer", None, "neither"),
        ("pre_tokenizer.pretokenizers.0.pattern.Regex", r"\s+", "neither"),
        ("pre_tokenizer.pretokenizers.0.behavior", "Removed", "neither"),
        ("pre_tokenizer.pretokenizers.1.add_prefix_space", True, "neither"),
        ("added_tokens.0.lstrip", True, "around it"),
        ("added_tokens.0.id", 0, "begin_of_text"),
        ("added_tokens.0.id", VOCAB, "only 512 rows"),
        ("added_tokens.0.content", "<tool>", "same token"),
        ("added_tokens", {"a": 1}, "no list"),
        ("post_processor", {"type": "BertProcessing"}, "post-processor"),
        ("post_processor.processors.1.special_tokens.<|begin_of_text|>.ids", [7], "no begin"),
    ],
)
def test_refusals(folder: Path, path: str, value: Any, words: str) -> None:
    """What llama.cpp would do differently, or cannot load, is refused with one code."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    change(content, path, value)
    file.write_text(json.dumps(content))
    with pytest.raises(BaseError, match=words) as caught:
        read_vocabulary(folder, VOCAB, {})
    assert caught.value.code == "base_tokenizer"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bos_token": None}, "begin token"),
        ({"eos_token": "<|nothing|>"}, "nothing"),
        ({"add_bos_token": False}, "add_bos_token"),
        ({"add_eos_token": True}, "add_eos_token"),
        ({"added_tokens_decoder": {"511": {"content": "<|more|>"}}}, "more"),
    ],
)
def test_contradictions(folder: Path, changes: dict[str, Any], words: str) -> None:
    """tokenizer_config.json must say what tokenizer.json does."""
    edit(folder / "tokenizer_config.json", **changes)
    with pytest.raises(BaseError, match=words) as caught:
        read_vocabulary(folder, VOCAB, {})
    assert caught.value.code == "base_tokenizer"


def test_a_byte_without_a_token(folder: Path) -> None:
    """tokenizers drops such a byte without a word; llama.cpp does not."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"]["unused"] = content["model"]["vocab"].pop("ÿ")
    file.write_text(json.dumps(content))
    with pytest.raises(BaseError, match="some byte"):
        read_vocabulary(folder, VOCAB, {})


def test_no_tokenizer(folder: Path) -> None:
    """A checkpoint without tokenizer.json is refused."""
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BaseError) as caught:
        read_vocabulary(folder, VOCAB, {})
    assert caught.value.code == "file_missing"


def test_the_byte_alphabet() -> None:
    """Two ways to write down byte-level BPE's alphabet agree."""
    assert byte_alphabet() == bases.byte_alphabet()
    assert len(set(byte_alphabet())) == 256


def test_unused_rows_end_nothing(folder: Path, tmp_path: Path) -> None:
    """Exactly the ends of the checkpoint end a generation in llama.cpp."""
    write_base_gguf(folder, tmp_path / "base.gguf", quantization="F32")
    tokens = read_vocabulary(folder, VOCAB, {}).tokens
    with native_vocabulary(tmp_path / "base.gguf") as vocabulary:
        ends = {n for n in range(VOCAB) if llama_cpp.llama_vocab_is_eog(vocabulary, n)}
    assert ends == {tokens.index(token) for token in ("<|end_of_text|>", "<|eot_id|>", "<|eom_id|>")}
