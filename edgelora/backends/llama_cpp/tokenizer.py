"""Text to token ids and back, through llama.cpp's own vocabulary. Thread-safe; owns no memory of the model's."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from functools import cached_property
from typing import Any, Final

from edgelora.backends.llama_cpp.libllama import library
from edgelora.backends.llama_cpp.model import Model
from edgelora.core.errors import BackendError, UsageError
from edgelora.text.special_tokens import SpecialTokens
from edgelora.text.token_bound import TokenBound

MAX_TEXT_BYTES: Final = 1 << 30
"""The library counts in 32 bits. What cannot fit a context is refused long before, by `fewest_tokens`."""
_LOSES_NOTHING: Final = frozenset({1, 2})
"""The values of enum llama_vocab_type whose tokens cover every byte of a text: SPM with byte fallback,
byte-level BPE.
"""
_INDEPENDENT: Final = frozenset({1, 2})
"""The values of enum llama_vocab_type, SPM and BPE, that tokenise the texts between two special tokens alone."""
_ONLY_SPECIAL: Final = 1 << 0 | 1 << 3
"""LLAMA_TOKEN_ATTR_UNKNOWN and CONTROL: tokens that are read from a text with `special` only."""
_ALWAYS_CUT: Final = 1 << 4
"""LLAMA_TOKEN_ATTR_USER_DEFINED: tokens that are read from every text, before anything else."""
_SHORT: Final = 4096
"""Characters that are tokenised in less time than it takes to think about them."""
_STRIPS: Final = 1 << 7 | 1 << 8
"""LLAMA_TOKEN_ATTR_LSTRIP and RSTRIP: such a token takes the spaces beside it with it, however many."""


class LlamaTokenizer:
    """Implements `edgelora.core.tokenizer.Tokenizer`. Small facts are read once; the rest asks the library."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._pieces: dict[int, bytes] = {}
        lib = library()
        with model.held() as handle:
            vocab = lib.llama_model_get_vocab(handle)
            self._size = int(lib.llama_vocab_n_tokens(vocab))
            self._end_ids = frozenset(t for t in range(self._size) if lib.llama_vocab_is_eog(vocab, t))
            self._bos = int(lib.llama_vocab_bos(vocab))
            self._adds_bos = bool(lib.llama_vocab_get_add_bos(vocab)) and self._bos >= 0
            self._bos_text = _token_text(vocab, self._bos)
            self._eos_text = _token_text(vocab, int(lib.llama_vocab_eos(vocab)))
            template = lib.llama_model_chat_template(handle, None)
        self._chat_template = None if template is None else template.decode("utf-8", "replace")

    @property
    def size(self) -> int:
        return self._size

    @property
    def end_ids(self) -> frozenset[int]:
        return self._end_ids

    @property
    def bos_text(self) -> str:
        return self._bos_text

    @property
    def adds_bos(self) -> bool:
        return self._adds_bos

    @property
    def eos_text(self) -> str:
        return self._eos_text

    @property
    def chat_template(self) -> str | None:
        return self._chat_template

    def tokenize(self, text: str, *, special: bool, bos: bool) -> list[int]:
        """Ids of `text`; see the protocol. Raises UsageError where it is longer than MAX_TEXT_BYTES."""
        # Lone surrogates have no UTF-8; "?" is what every encoder writes for them.
        data = text.encode("utf-8", "replace")
        if len(data) > MAX_TEXT_BYTES:
            raise UsageError(
                "text_too_long",
                f"The text has {len(data)} bytes; at most {MAX_TEXT_BYTES} are tokenised.",
                "Shorten it.",
            )
        ids = [self._bos] if bos and self._bos >= 0 else []
        cutter = self._cutters[special]
        with self._model.held() as handle:
            vocab = library().llama_model_get_vocab(handle)
            if cutter is None:
                return ids + _ids(vocab, data, special=special)
            for part in cutter.cut(data):
                ids += [part] if isinstance(part, int) else _ids(vocab, part, special=False)
        return ids

    def spells_control(self, text: str) -> bool:
        data = text.encode("utf-8", "replace")
        control = self._control
        if control is None:
            return self.tokenize(text, special=True, bos=False) != self.tokenize(text, special=False, bos=False)
        return control.pattern is not None and control.pattern.search(data) is not None

    def fewest_tokens(self, text: str) -> int:
        """See the protocol. The first call for a text that is not short reads the whole vocabulary."""
        if len(text) < _SHORT:
            return 0
        return 0 if self._bound is None else self._bound.fewest(text)

    @cached_property
    def _cutters(self) -> tuple[SpecialTokens | None, SpecialTokens | None]:
        """The tokens at which a text is cut without and with `special`; None if only llama.cpp can cut it."""
        lib = library()
        with self._model.held() as handle:
            vocab = lib.llama_model_get_vocab(handle)
            if int(lib.llama_vocab_type(vocab)) not in _INDEPENDENT:
                return None, None
            attributes = [(token, lib.llama_vocab_get_attr(vocab, token)) for token in range(self._size)]
            marked = [(token, kind) for token, kind in attributes if kind & (_ONLY_SPECIAL | _ALWAYS_CUT)]
            if any(kind & _STRIPS for _, kind in marked):
                return None, None
            written = {token: lib.llama_vocab_get_text(vocab, token) or b"" for token, _ in marked}
        always = [(token, written[token]) for token, kind in marked if kind & _ALWAYS_CUT]
        return SpecialTokens.of(always), SpecialTokens.of(written.items())

    @cached_property
    def _control(self) -> SpecialTokens | None:
        """The tokens that are read with `special` only; None if only llama.cpp can find them."""
        plain, special = self._cutters
        if plain is None or special is None:
            return None
        return SpecialTokens.of((token, text) for text, token in special.ids.items() if text not in plain.ids)

    @cached_property
    def _bound(self) -> TokenBound | None:
        lib = library()
        with self._model.held() as handle:
            vocab = lib.llama_model_get_vocab(handle)
            if int(lib.llama_vocab_type(vocab)) not in _LOSES_NOTHING:
                return None
            if any(lib.llama_vocab_get_attr(vocab, token) & _STRIPS for token in range(self._size)):
                return None
            return TokenBound.of(_pieces(vocab, range(self._size), special=True))

    def piece(self, token: int) -> bytes:
        """Return the token's bytes; see the protocol. Raises BackendError for an id outside the vocabulary."""
        cached = self._pieces.get(token)
        if cached is None:
            cached = self._pieces[token] = self._read_piece(token)
        return cached

    def _read_piece(self, token: int) -> bytes:
        if not 0 <= token < self._size:
            raise BackendError("bad_token", f"Token {token} is not in the vocabulary of {self._size}.")
        with self._model.held() as handle:
            return _pieces(library().llama_model_get_vocab(handle), [token], special=False)[0]


def _ids(vocab: Any, data: bytes, *, special: bool) -> list[int]:
    """Return llama.cpp's own tokens of a text. `special`: it looks for control tokens in it."""
    if not data:
        return []
    lib = library()
    room = len(data) + 8
    ids = (lib.llama_token * room)()
    count = lib.llama_tokenize(vocab, data, len(data), ids, room, False, special)
    if count < 0:
        raise BackendError("tokenizer", f"The tokeniser wants {-count} tokens for {len(data)} bytes of text.")
    return list(ids[:count])


def _pieces(vocab: Any, tokens: Iterable[int], *, special: bool) -> list[bytes]:
    """Each token's bytes in a text; with `special` a control token's as it is written."""
    read = library().llama_token_to_piece
    pieces, buffer = [], ctypes.create_string_buffer(64)
    for token in tokens:
        while (written := read(vocab, token, buffer, len(buffer), 0, special)) < 0:
            buffer = ctypes.create_string_buffer(-written)
        pieces.append(ctypes.string_at(buffer, written))
    return pieces


def _token_text(vocab: Any, token: int) -> str:
    if token < 0:
        return ""
    text = library().llama_vocab_get_text(vocab, token)
    return "" if text is None else text.decode("utf-8", "replace")
