"""Base records without a model file, for tests that need a base's identity and nothing more."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from edgelora.core.config import Directories
from edgelora.store.bases.record import BaseRecord, Stamp
from edgelora_models.fingerprint import BaseFingerprint
from edgelora_models.identity import BaseIdentity
from edgelora_models.shape import LlamaShape


def identity(shape: LlamaShape, *, vocabulary: str = "0" * 64, nbytes: int = 1000) -> BaseIdentity:
    """An identity of `shape`; another `vocabulary` digest is another base."""
    return BaseIdentity(
        fingerprint=BaseFingerprint("llama", shape, vocabulary, "1" * 64),
        context_length=512,
        quantization="Q8_0",
        nbytes=nbytes,
        chat_template=None,
        name="tiny",
    )


def base_record(
    shape: LlamaShape, *, name: str = "tiny", format: Literal["gguf", "mlx"] = "gguf", vocabulary: str = "0" * 64
) -> BaseRecord:
    return BaseRecord(
        name=name,
        format=format,
        location=f"/models/{name}.gguf",
        identity=identity(shape, vocabulary=vocabulary),
        origin="local",
        created=1_750_000_000.0,
        stamp=Stamp(1000, 1),
    )


def directories(root: Path) -> Directories:
    return Directories(data=root / "data", cache=root / "cache", state=root / "state", config=root)
