"""Text to token ids and back, through llama.cpp's own vocabulary. Thread-safe; owns no memory of the model's."""

from __future__ import annotations

import ctypes
from typing import Any, Final

from edgelora.backends.llama_cpp.library import library
from edgelora.backends.llama_cpp.model import Model
from edgelora.errors import BackendError, UsageError

MAX_TEXT_BYTES: Final = 4 << 20
"""Longer texts are refused before the tokeniser spends seconds on what no context can hold."""


class LlamaVocabulary:
    """Implements `edgelora.backends.base.Vocabulary`. Small facts are read once; the rest asks the library."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._pieces: dict[int, bytes] = {}
        lib = library()
        with model.held() as handle:
            vocab = lib.llama_model_get_vocab(handle)
            self._size = int(lib.llama_vocab_n_tokens(vocab))
            self._end_ids = frozenset(t for t in range(self._size) if lib.llama_vocab_is_eog(vocab, t))
            self._bos = int(lib.llama_vocab_bos(vocab))
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
        start = [self._bos] if bos and self._bos >= 0 else []
        return start + self._ids(data, special=special)

    def _ids(self, data: bytes, *, special: bool) -> list[int]:
        if not data:
            return []
        lib = library()
        room = len(data) + 8
        ids = (lib.llama_token * room)()
        with self._model.held() as handle:
            vocab = lib.llama_model_get_vocab(handle)
            count = lib.llama_tokenize(vocab, data, len(data), ids, room, False, special)
        if count < 0:
            raise BackendError("tokenizer", f"The tokeniser wants {-count} tokens for {len(data)} bytes of text.")
        return list(ids[:count])

    def piece(self, token: int) -> bytes:
        """The token's bytes; see the protocol. Raises BackendError for an id outside the vocabulary."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self._read_piece(token)
        return known

    def _read_piece(self, token: int) -> bytes:
        if not 0 <= token < self._size:
            raise BackendError("bad_token", f"Token {token} is not in the vocabulary of {self._size}.")
        lib = library()
        with self._model.held() as handle:
            vocab = lib.llama_model_get_vocab(handle)
            length = 64
            while True:
                buffer = ctypes.create_string_buffer(length)
                written = lib.llama_token_to_piece(vocab, token, buffer, length, 0, False)
                if written >= 0:
                    return buffer.raw[:written]
                length = -written


def _token_text(vocab: Any, token: int) -> str:
    if token < 0:
        return ""
    text = library().llama_vocab_get_text(vocab, token)
    return "" if text is None else text.decode("utf-8", "replace")
