"""Text to token ids and back for a base that is a folder: its tokenizer.json, through the `tokenizers` library.

Opened without the weights, and needs no mlx. Thread-safe and immutable. Owns what llama.cpp says of the same base in
its own way: which tokens are control, which end a turn, what a token's bytes are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from edgelora.core.errors import BackendError, BaseError
from edgelora.text.token_bound import TokenBound
from edgelora_converters.base.special_tokens import special_ids
from edgelora_models.files import read_json
from edgelora_models.hf_config import CONFIG_NAME, MAX_CONFIG_BYTES
from edgelora_models.hf_tokenizer import (
    MAX_TOKENIZER_BYTES,
    TOKENIZER_CONFIG_NAME,
    TOKENIZER_NAME,
    read_template,
    read_tokens,
)

_SHORT: Final = 4096
"""Characters that are tokenised in less time than it takes to think about them."""


class FolderTokenizer:
    """Implements `edgelora.core.tokenizer.Tokenizer`."""

    def __init__(self, folder: Path, vocab: int) -> None:
        """`vocab`: rows of the base's embedding. Raises BaseError where the tokenizer is missing or unusable."""
        from tokenizers import Tokenizer

        tokens = read_tokens(folder, vocab)
        if tokens is None:
            raise _unusable(folder, f"there is no {TOKENIZER_NAME}")
        text = (folder / TOKENIZER_NAME).read_text(encoding="utf-8")
        try:
            self._plain, self._special = Tokenizer.from_str(text), Tokenizer.from_str(text)
        except Exception as error:  # The library raises plain Exception for whatever it cannot read.
            raise _unusable(folder, str(error)) from error
        self._plain.encode_special_tokens = True  # A control token that a user writes is text.
        for tokenizer in (self._plain, self._special):
            tokenizer.no_truncation()
            tokenizer.no_padding()
        self._parsed: Mapping[str, Any] = json.loads(text)
        self._pieces = tuple(_pieces(folder, self._parsed, tokens))
        configuration = read_json(folder / CONFIG_NAME, limit=MAX_CONFIG_BYTES, error=BaseError)
        generation = _optional(folder / "generation_config.json")
        settings = _optional(folder / TOKENIZER_CONFIG_NAME)
        special = special_ids(settings, configuration, generation, tokens)
        ends = {special.eos, special.eot, special.eom, *_listed(generation), *_listed(configuration)}
        self._end_ids = frozenset(token for token in ends if token is not None and 0 <= token < vocab)
        self._bos = special.bos
        # As transformers does: an explicit `add_bos_token` wins over the post-processor.
        wrapped = self._special.encode("", add_special_tokens=True).ids
        self._adds_bos = bool(settings.get("add_bos_token", special.bos in wrapped))
        self._bos_text, self._eos_text = tokens[special.bos], tokens[special.eos]
        self._chat_template = read_template(folder)

    @property
    def size(self) -> int:
        return len(self._pieces)

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
        # Lone surrogates have no UTF-8; "?" is what every encoder writes for them.
        well_formed = text.encode("utf-8", "replace").decode()
        tokenizer = self._special if special else self._plain
        ids = tokenizer.encode(well_formed, add_special_tokens=False).ids
        return [self._bos, *ids] if bos else list(ids)

    def spells_control(self, text: str) -> bool:
        return self.tokenize(text, special=True, bos=False) != self.tokenize(text, special=False, bos=False)

    def fewest_tokens(self, text: str) -> int:
        """See the protocol. The first call for a text that is not short reads the whole vocabulary."""
        if len(text) < _SHORT or self._bound is None:
            return 0
        return self._bound.fewest(text)

    def piece(self, token: int) -> bytes:
        """Return the token's bytes; see the protocol. Raises BackendError for an id outside the vocabulary."""
        if not 0 <= token < self.size:
            raise BackendError("bad_token", f"Token {token} is not in the vocabulary of {self.size}.")
        return self._pieces[token]

    @cached_property
    def _bound(self) -> TokenBound | None:
        added = self._parsed.get("added_tokens") or []
        if self._parsed.get("normalizer") is not None or any(t.get("lstrip") or t.get("rstrip") for t in added):
            return None  # Then a text may lose characters.
        written = [str(token.get("content")).encode() for token in added]
        return TokenBound.of([*self._pieces, *written])


def _pieces(folder: Path, tokenizer: Mapping[str, Any], tokens: list[str]) -> Iterator[bytes]:
    """Each token's bytes in a text: none for control tokens and for rows that no token has."""
    added = {token["content"]: bool(token.get("special")) for token in tokenizer.get("added_tokens") or []}
    vocab = tokenizer["model"]["vocab"]
    kinds = {part.get("type") for part in _nested(tokenizer.get("decoder"))}
    if not kinds & {"ByteLevel", "ByteFallback"}:
        raise _unusable(folder, "it is neither byte-level BPE nor SentencePiece with bytes")
    spell = _byte_level if "ByteLevel" in kinds else _sentence_piece
    for token in tokens:
        if token in added:
            yield b"" if added[token] else token.encode()
        else:
            yield spell(token) if token in vocab else b""


def _nested(part: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(part, dict):
        yield part
        for below in part.get("decoders") or []:
            yield from _nested(below)


def _byte_level(token: str) -> bytes:
    return bytes(_BYTES[character] for character in token if character in _BYTES)


def _sentence_piece(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("\u2581", " ").encode()


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's: a byte that can be seen stands for itself, the others for the characters from 256 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(0x100) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + n): byte for n, byte in enumerate(hidden)}


_BYTES: Final = _byte_alphabet()


def _listed(fields: Mapping[str, Any]) -> list[int]:
    value = fields.get("eos_token_id")
    return [number for number in (value if isinstance(value, list) else [value]) if type(number) is int]


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path, limit=MAX_TOKENIZER_BYTES, error=BaseError) if path.exists() else {}


def _unusable(folder: Path, why: str) -> BaseError:
    message = f"The tokenizer of {folder} cannot be used: {why}."
    return BaseError("base_tokenizer", message, "Fetch the base's tokenizer files again.")
