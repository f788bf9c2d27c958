"""The identity of a base: its fingerprint and facts for people, read from a GGUF file or a folder without its weights.

A model as GGUF and the same model as a Hugging Face or MLX folder have equal fingerprints, so that an adapter made for
one fits the other.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgelora_models import gguf_base
from edgelora_models.errors import BaseError
from edgelora_models.files import regular_size, unreadable
from edgelora_models.fingerprint import BaseFingerprint
from edgelora_models.gguf_header import GgufHeader, read_header
from edgelora_models.gguf_types import FILE_TYPES, GGML_TYPES
from edgelora_models.hf_config import read_hf_config
from edgelora_models.hf_tokenizer import read_template, read_tokens
from edgelora_models.shape import LlamaShape


@dataclass(frozen=True, slots=True)
class BaseIdentity:
    """A base, without its weights."""

    fingerprint: BaseFingerprint
    context_length: int
    """Tokens the base was made for."""
    quantization: str
    """Such as `Q4_K_M`, `4-bit, groups of 64` or `bfloat16`; for people."""
    nbytes: int
    """Size of the GGUF file, or of the folder's safetensors files."""
    chat_template: str | None
    name: str | None
    """Name that the file gives itself; for people."""


def identify_gguf(path: Path) -> BaseIdentity:
    """Identify the base in a GGUF file. Raises BaseError where it is none or llama.cpp should not see it."""
    header = read_header(path, error=BaseError)
    shape = gguf_base.read_shape(header)
    has_tokenizer = gguf_base.text(header, "tokenizer.ggml.model") not in (None, "none")
    template = gguf_base.text(header, "tokenizer.chat_template")
    return BaseIdentity(
        fingerprint=_fingerprint(
            shape, gguf_base.texts(header, "tokenizer.ggml.tokens") if has_tokenizer else None, template
        ),
        context_length=gguf_base.count(header, "llama.context_length"),
        quantization=_quantization(header),
        nbytes=header.file_size,
        chat_template=template,
        name=gguf_base.text(header, "general.name"),
    )


def identify_folder(path: Path) -> BaseIdentity:
    """Identify the base in a Hugging Face or MLX folder. Raises BaseError."""
    if (path / "adapter_config.json").exists() and not (path / "config.json").exists():
        raise BaseError(
            "base_is_adapter", f"{path} holds an adapter and not a base.", f"Install it: edgelora add {path}"
        )
    config = read_hf_config(path)
    template = read_template(path)
    return BaseIdentity(
        fingerprint=_fingerprint(config.shape, read_tokens(path, config.shape.vocab), template),
        context_length=config.context_length,
        quantization=config.quantization,
        nbytes=_weight_bytes(path),
        chat_template=template,
        name=config.name,
    )


def shape_fingerprint(shape: LlamaShape) -> BaseFingerprint:
    """Return the fingerprint of a base of which only the shape is known."""
    return _fingerprint(shape, None, None)


def _fingerprint(shape: LlamaShape, tokens: Sequence[str] | None, template: str | None) -> BaseFingerprint:
    return BaseFingerprint(
        architecture="llama",
        shape=shape,
        vocabulary=_digest_count(shape.vocab) if tokens is None else _digest_tokens(tokens),
        template=hashlib.sha256((template or "").encode()).hexdigest(),
    )


def _digest_tokens(tokens: Sequence[str]) -> str:
    return hashlib.sha256("".join(f"{token}\0" for token in tokens).encode()).hexdigest()


def _digest_count(vocab: int) -> str:
    """Return a digest for a base without a tokenizer (as in tests and benchmarks), of which only the number of rows is
    known."""
    return hashlib.sha256(f"no tokenizer, {vocab} rows".encode()).hexdigest()


def _quantization(header: GgufHeader) -> str:
    """Return `general.file_type`, or where it is missing the type that most of the bytes are stored in."""
    stated = header.metadata.get("general.file_type")
    if isinstance(stated, int) and stated in FILE_TYPES:
        return FILE_TYPES[stated]
    weights: Counter[int] = Counter()
    for tensor in header.tensors.values():
        weights[tensor.type] += tensor.nbytes
    return GGML_TYPES[weights.most_common(1)[0][0]].name


def _weight_bytes(folder: Path) -> int:
    try:
        files = sorted(folder.glob("*.safetensors"))
    except OSError as e:
        raise unreadable(folder, e) from e
    if not files:
        raise BaseError("file_missing", f"There are no *.safetensors files in {folder}.", "Fetch the base's weights.")
    return sum(regular_size(file, error=BaseError) for file in files)
