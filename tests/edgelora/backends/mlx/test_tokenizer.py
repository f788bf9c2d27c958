"""A folder's vocabulary: what llama.cpp makes of the same base, without weights, from any thread."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers
from tokenizers.processors import ByteLevel

from edgelora.backends.llama_cpp.model import Model
from edgelora.backends.llama_cpp.tokenizer import LlamaTokenizer
from edgelora.backends.mlx import tokenizer as module
from edgelora.backends.mlx.tokenizer import FolderTokenizer
from edgelora.core.errors import BackendError, BaseError
from edgelora.core.tokenizer import Tokenizer
from edgelora_models.builtin import base_gguf, base_hf
from edgelora_models.gguf_base import read_shape
from edgelora_models.gguf_header import read_header
from tests.support.checkpoints import NASTY, VOCAB, WITH_TOKENS, edit, llama3_tokenizer, write_tokenizer

SHAPE = read_shape(read_header(base_gguf()))


@pytest.fixture(scope="module")
def ours() -> Tokenizer:
    """mypy reads this: it satisfies the protocol."""
    return FolderTokenizer(base_hf(), SHAPE.vocab)


@pytest.fixture(scope="module")
def theirs() -> Iterator[LlamaTokenizer]:
    """llama.cpp's, of the same base as GGUF."""
    model = Model.load(base_gguf(), shape=SHAPE, progress=None)
    yield LlamaTokenizer(model)
    model.close()


def test_facts_are_llama_cpps(ours: Tokenizer, theirs: LlamaTokenizer) -> None:
    """Size, template, begin and end texts, every end, and the bytes of every token."""
    for name in ("size", "chat_template", "bos_text", "adds_bos", "eos_text", "end_ids"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert [ours.piece(token) for token in range(ours.size)] == [theirs.piece(token) for token in range(ours.size)]


@pytest.mark.parametrize(
    ("setting", "adding", "adds"), [(None, True, True), (None, False, False), (False, True, False), (True, False, True)]
)
def test_bos_as_transformers_adds_it(tmp_path: Path, setting: bool | None, adding: bool, adds: bool) -> None:
    """By the post-processor, unless `add_bos_token` says otherwise."""
    tokenizer = llama3_tokenizer()
    if not adding:
        tokenizer.post_processor = ByteLevel(trim_offsets=False)
    write_tokenizer(tmp_path, tokenizer)
    (tmp_path / "config.json").write_text("{}")
    edit(tmp_path / "tokenizer_config.json", add_bos_token=setting)
    assert FolderTokenizer(tmp_path, VOCAB).adds_bos is adds


PARTS = ["the whole", " ", "\n\n", "<|eot_id|>", "<|begin_of_text|>", "x1", "日本", "é", "....", "\ue000", " Select"]


@pytest.mark.parametrize("text", ["", "a < b", "<|eot_id>", "x<|eot_id|>", "<|begin_of_text|>"])
def test_control_tokens_are_found_as_llama_cpp_finds_them(ours: Tokenizer, theirs: LlamaTokenizer, text: str) -> None:
    """Whether a text spells one does not depend on the format of the base."""
    assert ours.spells_control(text) is theirs.spells_control(text)


@settings(deadline=None, max_examples=60)
@given(
    parts=st.lists(st.one_of(st.sampled_from([*PARTS, *NASTY, *WITH_TOKENS]), st.text(max_size=5)), max_size=20),
    special=st.booleans(),
    bos=st.booleans(),
)
def test_any_text_is_llama_cpps_tokens(
    ours: Tokenizer, theirs: LlamaTokenizer, parts: list[str], special: bool, bos: bool
) -> None:
    """Control tokens parsed or taken as text, BOS or not: the same ids, and never fewer than was said."""
    text = "".join(parts)
    ids = ours.tokenize(text, special=special, bos=bos)
    assert ids == theirs.tokenize(text, special=special, bos=bos)
    assert ours.fewest_tokens(text) <= len(ids)


@pytest.mark.parametrize("text", [" " * 6000, "a" * 6000, "日" * 5000, "the of and " * 900, "<|eot_id|>" * 900])
def test_the_bound_is_of_use(ours: Tokenizer, text: str) -> None:
    """Not above the truth, and within a factor that still refuses what is far too long."""
    exact = len(ours.tokenize(text, special=True, bos=False))
    assert exact / 25 <= ours.fewest_tokens(text) <= exact


def test_a_lone_surrogate_is_a_question_mark(ours: Tokenizer) -> None:
    """JSON can carry half a pair; the library would refuse the text."""
    assert ours.tokenize("a\ud800", special=True, bos=False) == ours.tokenize("a?", special=True, bos=False)


@pytest.mark.parametrize("token", [-1, SHAPE.vocab])
def test_an_unknown_token_is_an_error(ours: Tokenizer, token: int) -> None:
    """Not the last one's bytes."""
    with pytest.raises(BackendError, match="not in the vocabulary"):
        ours.piece(token)


def test_threads_do_not_disturb_each_other(ours: Tokenizer) -> None:
    """Many threads tokenise different texts at once and each gets its own ids."""
    rng = random.Random(0)
    texts = ["".join(rng.choices("abc é\n<|>", k=rng.randrange(2000))) for _ in range(64)]
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda text: ours.tokenize(text, special=True, bos=False), texts))
    assert [b"".join(map(ours.piece, tokens)).decode() for tokens in ids] == texts


def write(folder: Path, tokenizer: tokenizers.Tokenizer) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    write_tokenizer(folder, tokenizer)
    return folder


def test_added_tokens_that_are_text(tmp_path: Path) -> None:
    """A token that is none of control's is its text, whoever writes it; rows without a token are nothing."""
    tokenizer = FolderTokenizer(write(tmp_path / "base", llama3_tokenizer()), VOCAB)
    for special in (True, False):
        (token,) = tokenizer.tokenize("<tool>", special=special, bos=False)
        assert tokenizer.piece(token) == b"<tool>"
    assert tokenizer.size == VOCAB and tokenizer.piece(VOCAB - 1) == b""


def test_sentence_pieces_with_bytes(tmp_path: Path) -> None:
    """Llama 2's kind: spaces are underlines of their own, what is no piece is bytes. Nothing is said of its bounds."""
    known = {"<unk>": 0, "<s>": 1, "</s>": 2, "<0x0A>": 3, "▁": 4, "▁a": 5, "b": 6}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=known, merges=[], byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    folder = write_plain(tmp_path / "base", tokenizer)
    tokenizer = FolderTokenizer(folder, 8)
    assert [tokenizer.piece(token) for token in (3, 4, 5, 6, 1)] == [b"\n", b" ", b" a", b"b", b""]
    assert tokenizer.tokenize("b\nb", special=True, bos=False) == [6, 3, 6]
    assert tokenizer.fewest_tokens("b" * 9000) == 0


def write_plain(folder: Path, tokenizer: tokenizers.Tokenizer) -> Path:
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text('{"bos_token_id": 1, "eos_token_id": 2}')
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer.json"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "model.vocab"),
        (lambda folder: edit(folder / "tokenizer.json", decoder={"type": "Fuse"}), "neither byte-level"),
        (lambda folder: edit(folder / "tokenizer.json", model={"type": "Odd", "vocab": {}}), "cannot be used"),
        (lambda folder: edit(folder / "tokenizer_config.json", eos_token="<|none|>"), "no token of it"),
    ],
)
def test_unusable_tokenizers_are_named(tmp_path: Path, change: Callable[[Path], object], words: str) -> None:
    """An error of the base, before its weights are read."""
    folder = write(tmp_path / "base", llama3_tokenizer())
    change(folder)
    with pytest.raises(BaseError, match=words):
        FolderTokenizer(folder, VOCAB)


def test_short_texts_are_not_looked_at(ours: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokenising them is as cheap."""
    assert ours.fewest_tokens("a" * 100) == 0 < ours.fewest_tokens("a" * 5000)
    monkeypatch.setattr(module, "_SHORT", 0)
    assert ours.fewest_tokens("a" * 100) > 0
