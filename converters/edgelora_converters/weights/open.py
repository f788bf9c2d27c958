"""A base's own weights for the conversions that need them: tensors by Hugging Face name, in float32, read when asked.

Owns the protocol and the choice of a source; the sources are `base_weights_hf` (a folder) and `base_weights_gguf` (a
file). Nothing is kept: memory is what the caller asks for at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgelora_converters.weights.base import BaseWeights
from edgelora_models.errors import UsageError


@contextmanager
def open_base_weights(path: Path) -> Iterator[BaseWeights]:
    """Open the weights of a Hugging Face folder (one safetensors file or shards) or of a GGUF file, closed at the end.

    Every tensor is checked to be there in its shape before the body runs. Raises BaseError where the base is unsound,
    quantized in a way that cannot be read, or no Llama; UsageError where there is nothing; StorageError for the disk.
    """
    if not path.exists():
        raise UsageError("path_not_found", f"There is nothing at {path}.", "Give the base's folder or GGUF file.")
    if path.is_dir():
        from edgelora_converters.weights.hf import HfWeights

        with HfWeights(path) as weights:
            yield weights
    else:
        from edgelora_converters.weights.gguf import GgufWeights

        with GgufWeights(path) as weights:
            yield weights
