"""The base's vocabulary: text to ids and back, from any thread, never more than asked for."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgelora.backends.llama_cpp import tokenizer as module
from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora.backends.llama_cpp.model import Model
from edgelora.backends.llama_cpp.tokenizer import LlamaTokenizer
from edgelora.core.errors import BackendError, BaseError, UsageError
from edgelora_models.builtin import base_gguf
from edgelora_models.gguf_base import read_shape
from edgelora_models.gguf_header import read_header
from tests.edgelora.backends.llama_cpp.conftest import Installed
from tests.support.bases import CHAT_TEMPLATE, CONTROL_TOKENS, write_tiny_gguf
from tests.support.lora import GQA

BOS = GQA.vocab - len(CONTROL_TOKENS)
CONTROL_IDS = {name: BOS + n for n, name in enumerate(CONTROL_TOKENS)}


@pytest.fixture
def tokenizer(backend: LlamaCppBackend) -> LlamaTokenizer:
    return backend.tokenizer


def test_facts_come_from_the_file(tokenizer: LlamaTokenizer) -> None:
    """Size, template, the written forms of BOS and EOS, and every token that ends a turn or a text."""
    assert tokenizer.size == GQA.vocab
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert (tokenizer.bos_text, tokenizer.eos_text) == ("<|begin_of_text|>", "<|eot_id|>")
    assert tokenizer.end_ids == {CONTROL_IDS[n] for n in ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")}


@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_text_survives_the_round_trip(tokenizer: LlamaTokenizer, text: str) -> None:
    """Pieces joined are the text's own bytes, NUL and control names included, where these are plain text."""
    ids = tokenizer.tokenize(text, special=False, bos=False)
    assert b"".join(tokenizer.piece(token) for token in ids).decode() == text


def test_control_tokens_only_where_asked(tokenizer: LlamaTokenizer) -> None:
    """A user's written-out control token is text; a template's is the token, and has no bytes of its own."""
    text = "a<|eot_id|>"
    assert tokenizer.tokenize(text, special=True, bos=False) == [ord("a"), CONTROL_IDS["<|eot_id|>"]]
    assert len(tokenizer.tokenize(text, special=False, bos=False)) == len(text)
    assert tokenizer.piece(CONTROL_IDS["<|eot_id|>"]) == b""


@pytest.mark.parametrize("adds", [True, False])
def test_bos_as_the_file_says(tmp_path: Path, adds: bool) -> None:
    """`tokenizer.ggml.add_bos_token`, as llama.cpp's own tokenisation of a text reads it."""
    path = write_tiny_gguf(tmp_path / "base.gguf", GQA, seed=1)
    key = b"tokenizer.ggml.add_bos_token\x07\0\0\0"
    data = path.read_bytes()
    assert key + b"\1" in data
    path.write_bytes(data.replace(key + b"\1", key + bytes([adds])))
    model = Model.load_vocabulary(path, shape=GQA)
    assert LlamaTokenizer(model).adds_bos is adds
    model.close()


def test_bos_only_where_asked(tokenizer: LlamaTokenizer) -> None:
    """BOS is prepended by the caller's word alone, even to nothing; a template that writes it gets no second."""
    assert tokenizer.tokenize("", special=True, bos=True) == [BOS]
    assert tokenizer.tokenize("a", special=True, bos=False) == [97]
    assert tokenizer.tokenize("<|begin_of_text|>a", special=True, bos=False) == [BOS, 97]


def test_a_lone_surrogate_does_not_reach_native_code(tokenizer: LlamaTokenizer) -> None:
    """JSON can carry half a surrogate pair; it has no UTF-8 and becomes a question mark."""
    assert tokenizer.tokenize("a\ud800", special=True, bos=False) == [97, ord("?")]


def test_too_long_a_text_is_refused(tokenizer: LlamaTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cap is on bytes, before any work is done."""
    monkeypatch.setattr(module, "MAX_TEXT_BYTES", 10)
    assert len(tokenizer.tokenize("é" * 5, special=True, bos=False)) == 10
    with pytest.raises(UsageError) as caught:
        tokenizer.tokenize("é" * 6, special=True, bos=False)
    assert caught.value.code == "text_too_long"


@pytest.mark.parametrize("token", [-1, GQA.vocab])
def test_an_unknown_token_is_an_error(tokenizer: LlamaTokenizer, token: int) -> None:
    """llama.cpp would read past its table."""
    with pytest.raises(BackendError, match="not in the vocabulary"):
        tokenizer.piece(token)


def test_threads_do_not_disturb_each_other(tokenizer: LlamaTokenizer) -> None:
    """Many threads tokenise different texts at once and each gets its own ids."""
    rng = random.Random(0)
    texts = ["".join(rng.choices("abc é\n<|>", k=rng.randrange(2000))) for _ in range(64)]
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda text: tokenizer.tokenize(text, special=True, bos=False), texts))
        pieces = list(pool.map(lambda tokens: b"".join(map(tokenizer.piece, tokens)).decode(), ids))
    assert pieces == texts


def test_a_closed_base_answers_with_an_error(backend: LlamaCppBackend) -> None:
    """A thread that still holds the vocabulary gets an error, not freed memory."""
    tokenizer = backend.tokenizer
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        tokenizer.tokenize("a", special=True, bos=False)


PIECES = ["the whole", " ", "\n\n", "<|eot_id|>", "<|begin_of_text|>", "x1", "日本", "é", "....", "\ue000", " Select"]


@pytest.fixture(scope="module")
def trained() -> Iterator[LlamaTokenizer]:
    """The built-in base's: a real one, with merges."""
    model = Model.load(base_gguf(), shape=read_shape(read_header(base_gguf())), progress=None)
    yield LlamaTokenizer(model)
    model.close()


@pytest.fixture(scope="module")
def alone() -> Iterator[LlamaTokenizer]:
    """The same opened without its weights."""
    model = Model.load_vocabulary(base_gguf(), shape=read_shape(read_header(base_gguf())))
    yield LlamaTokenizer(model)
    model.close()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=5)), max_size=30), st.booleans(), st.booleans())
def test_a_vocabulary_alone_is_the_bases(
    trained: LlamaTokenizer, alone: LlamaTokenizer, parts: list[str], special: bool, bos: bool
) -> None:
    """Every text gives the same tokens with and without the weights."""
    text = "".join(parts)
    assert alone.tokenize(text, special=special, bos=bos) == trained.tokenize(text, special=special, bos=bos)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.one_of(st.sampled_from([*PIECES, "<|", "|>"]), st.text(max_size=5)), max_size=30), st.booleans())
def test_a_text_is_cut_as_llama_cpp_cuts_it(trained: LlamaTokenizer, parts: list[str], special: bool) -> None:
    """Token for token, with control tokens and texts that only look like them; and whether there is one at all."""
    text = "".join(parts)
    data = text.encode("utf-8", "replace")
    with trained._model.held() as handle:
        vocab = module.library().llama_model_get_vocab(handle)
        own, plain = (module._ids(vocab, data, special=read) for read in (special, False))
        assert trained.tokenize(text, special=special, bos=False) == own
        assert trained.spells_control(text) is (module._ids(vocab, data, special=True) != plain)


def test_many_control_tokens(trained: LlamaTokenizer) -> None:
    """llama.cpp's own cut takes minutes for so many; a client can send them in one body."""
    text = "<|eot_id|>" * 200_000
    (end,) = trained.tokenize("<|eot_id|>", special=True, bos=False)
    assert trained.tokenize(text, special=True, bos=False) == [end] * 200_000
    assert trained.spells_control(text) and not trained.spells_control("<|eot_id>" * 200_000)


def test_a_vocabulary_that_only_llama_cpp_can_cut(trained: LlamaTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another type, or with tokens that take the spaces beside them: the whole text goes to llama.cpp."""
    text = "<|eot_id|> a <|begin_of_text|>"
    wanted = trained.tokenize(text, special=True, bos=False)
    for name, value in (("_INDEPENDENT", frozenset()), ("_STRIPS", -1)):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, value)
            other = LlamaTokenizer(trained._model)
            assert other._cutters == (None, None)
            assert other.tokenize(text, special=True, bos=False) == wanted
            assert other.spells_control(text) and not other.spells_control("a")


def test_the_facts_of_a_vocabulary_alone(trained: LlamaTokenizer, alone: LlamaTokenizer) -> None:
    """Size, ends, template, bounds and every piece are the same; a base of another vocabulary is refused."""
    for name in ("size", "end_ids", "bos_text", "eos_text", "chat_template"):
        assert getattr(alone, name) == getattr(trained, name)
    assert [alone.piece(token) for token in range(alone.size)] == [trained.piece(token) for token in range(alone.size)]
    assert alone.fewest_tokens("a" * 5000) == trained.fewest_tokens("a" * 5000)
    with pytest.raises(BaseError) as caught:
        Model.load_vocabulary(base_gguf(), shape=replace(GQA, vocab=17))
    assert caught.value.code == "base_changed" and "instead of 17" in caught.value.what


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=5)), max_size=30), st.booleans())
def test_never_fewer_than_was_said(
    trained: LlamaTokenizer, monkeypatch: pytest.MonkeyPatch, parts: list[str], special: bool
) -> None:
    """The real tokeniser gives at least as many tokens as the bound, control tokens parsed or not."""
    monkeypatch.setattr(module, "_SHORT", 0)
    text = "".join(parts)
    assert trained.fewest_tokens(text) <= len(trained.tokenize(text, special=special, bos=False))


@pytest.mark.parametrize(
    "text", [" " * 6000, "a" * 6000, "1" * 6000, "日" * 5000, "the of and " * 900, "<|eot_id|>" * 900]
)
def test_the_bound_is_of_use(trained: LlamaTokenizer, text: str) -> None:
    """Not above the truth, and within a factor that still refuses what is far too long."""
    exact = len(trained.tokenize(text, special=True, bos=False))
    assert exact / 25 <= trained.fewest_tokens(text) <= exact


def test_short_texts_are_not_looked_at(trained: LlamaTokenizer) -> None:
    """Tokenising them is as cheap."""
    assert trained.fewest_tokens("a" * 100) == 0 < trained.fewest_tokens("a" * 5000)


def test_nothing_is_said_of_other_tokenisers(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that may drop text, or has tokens that swallow the spaces beside them, gives no bound."""
    for name, value in (("_LOSES_NOTHING", frozenset()), ("_STRIPS", -1)):
        model = Model.load(installed.base, shape=GQA, progress=None)
        with monkeypatch.context() as patched:
            patched.setattr(module, name, value)
            assert LlamaTokenizer(model).fewest_tokens("a" * 5000) == 0
        assert LlamaTokenizer(model).fewest_tokens("a" * 5000) > 0
        model.close()
