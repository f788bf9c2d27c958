"""A checkpoint as a folder mlx-lm loads: weights and quantization by mlx-lm itself, configuration and tokenizer by us.

mlx-lm (0.32.2) reads a Llama's rope from transformers 4's `rope_theta` and `rope_scaling` alone and takes 10000 without
scaling where they are missing, so those two are always written. Tokenizer files are copied.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.base.checkpoint import Checkpoint
from edgelora_converters.base.digest import WeightDigest, content_digest
from edgelora_converters.base.verify import BaseVerification, Comparison, check_identity, failed
from edgelora_converters.weights.base import row_blocks
from edgelora_models.errors import BaseError
from edgelora_models.identity import identify_folder

BITS: Mapping[str, int] = {"8bit": 8, "6bit": 6, "4bit": 4, "3bit": 3}
DTYPES: Mapping[str, str] = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
GROUP_SIZE = 64
"""Weights that share a scale and a bias. Modules with rows of another multiple stay as they are, as in mlx-lm."""

_STORED = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_COPIED = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"),
    *("generation_config.json", "tokenizer.model", "added_tokens.json", "vocab.json", "merges.txt"),
)


def write_mlx(
    checkpoint: Checkpoint,
    out: Path,
    *,
    kind: str,
    provenance: Mapping[str, str],
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[BaseVerification, str]:
    """Write an open checkpoint to the new folder `out`, compare it with its source, and return the proof and the digest
    of the source (`content_digest`).

    `kind`: one of BITS or DTYPES. `provenance` goes into config.json under "edgelora", which mlx-lm ignores. Raises
    BaseError (`mlx_missing`, `base_dtype`, `base_conversion_failed`), and OSError for the disk.
    """
    mx = _mlx()
    dtype = _dtype(checkpoint, kind)
    if progress is not None:
        progress("Converting with mlx-lm", 0, 0)
    config = _write_weights(mx, checkpoint, out, kind=kind, dtype=dtype)
    if progress is not None:
        progress("Converting with mlx-lm", 1, 1)
    report = None if progress is None else lambda done, total: progress("Checking", done, total)
    proof, digest = _verify(mx, out, checkpoint, config, report)
    config["edgelora"] = {**provenance, "source_digest": digest}
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)
    (out / "config.json").write_text(text + "\n", encoding="utf-8")
    for name in _COPIED:
        if (checkpoint.folder / name).is_file():
            shutil.copyfile(checkpoint.folder / name, out / name)
    check_identity(identify_folder(out), checkpoint)
    return proof, digest


def _mlx() -> Any:
    try:
        import mlx.core as mx
        import mlx_lm.models.llama  # noqa: F401
    except ImportError as error:
        message = f"mlx and mlx-lm are needed to convert a base to MLX: {error}."
        raise BaseError("mlx_missing", message, "Install them: pip install 'edgelora[mlx]'") from error
    return mx


def _dtype(checkpoint: Checkpoint, kind: str) -> str:
    """Return the type for tensors that are not quantized: the type asked for, else the widest of the checkpoint's
    own."""
    stored = set(checkpoint.dtypes.values())
    if odd := sorted(stored - _STORED.keys()):
        message = f"The base's tensors are stored as {', '.join(odd)}, which mlx-lm cannot load."
        raise BaseError("base_dtype", message, "Use the original model: F32, F16 or BF16.")
    if kind in DTYPES:
        return DTYPES[kind]
    return _STORED[stored.pop()] if len(stored) == 1 else "float32"


def _write_weights(mx: Any, checkpoint: Checkpoint, out: Path, *, kind: str, dtype: str) -> dict[str, Any]:
    """Write the safetensors files and return the configuration that goes with them."""
    from mlx_lm.models.llama import Model, ModelArgs
    from mlx_lm.utils import quantize_model, save_model

    config = _config(checkpoint, dtype)
    arguments: Any = ModelArgs
    model = Model(arguments.from_dict(config))
    names = set(checkpoint.weights.names)
    weights: dict[str, Any] = {}
    for path in checkpoint.files:  # nothing is read before it is written
        weights |= {name: array for name, array in mx.load(str(path)).items() if name in names}
    model.load_weights([(name, array.astype(getattr(mx, dtype))) for name, array in weights.items()])
    weights.clear()
    with contextlib.redirect_stdout(io.StringIO()):  # it tells its bits per weight
        if kind in BITS:
            model, config = quantize_model(model, config, GROUP_SIZE, BITS[kind])
        save_model(out, model, donate_model=True)
    return dict(config)


def _config(checkpoint: Checkpoint, dtype: str) -> dict[str, Any]:
    """config.json with what mlx-lm reads: the older rope keys, and nothing left to its defaults."""
    config, shape = checkpoint.config, checkpoint.config.shape
    fields = {key: value for key, value in config.fields.items() if key != "_name_or_path"}
    fields |= config.rope.legacy()
    fields |= {"tie_word_embeddings": shape.tied, "head_dim": shape.head_dim, "num_key_value_heads": shape.kv_heads}
    fields |= {"rms_norm_eps": config.norm_epsilon, "torch_dtype": dtype}
    if "dtype" in fields:
        fields["dtype"] = dtype
    return fields


def _verify(
    mx: Any,
    folder: Path,
    checkpoint: Checkpoint,
    config: Mapping[str, Any],
    progress: Callable[[int, int], None] | None,
) -> tuple[BaseVerification, str]:
    """Compare every weight in `folder` with the checkpoint's, and digest the latter on the way."""
    stored: dict[str, Any] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        stored |= mx.load(str(path))
    reading = _TensorReader(mx, checkpoint, stored, config.get("quantization"))
    comparison = Comparison(checkpoint, progress)
    for name in checkpoint.weights.names:
        comparison.add(name, reading.kind(name), reading.blocks(name))
    if stored:
        raise failed(f"it holds {min(stored)} besides")
    return comparison.proof(), content_digest(reading.digests)


class _TensorReader:
    """The written weights beside the source's. Takes what it has read out of `stored`, so that it is not kept."""

    def __init__(self, mx: Any, checkpoint: Checkpoint, stored: dict[str, Any], quantization: Any) -> None:
        self._mx = mx
        self._checkpoint = checkpoint
        self._stored = stored
        self._quantization = quantization
        self.digests: dict[str, str] = {}

    def kind(self, name: str) -> str:
        """Return the stored type of a weight, as the gate's bounds name it."""
        if self._scales(name) in self._stored:
            return f"{self._quantization['bits']}-bit"
        if name not in self._stored:
            raise failed(f"{name} is missing", name)
        kinds = {getattr(self._mx, dtype): kind for kind, dtype in _STORED.items()}
        return kinds[self._stored[name].dtype]

    def blocks(self, name: str) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        source, dtype = self._checkpoint.weights, self._checkpoint.dtypes[name]
        parts = [self._stored.pop(name)]
        if (scales := self._scales(name)) in self._stored:
            parts += [self._stored.pop(scales), self._stored.pop(f"{name.removesuffix('weight')}biases")]
        shape = source.shape(name)
        digest = WeightDigest(dtype, shape)
        for first, rows in row_blocks(source, name) if len(shape) == 2 else [(0, source.read(name))]:
            digest.update(rows)
            written = self._widened([part[first : first + len(rows)] for part in parts])
            if written.shape != rows.shape:
                raise failed(f"{name} has another shape", name)
            yield written, rows
        self.digests[name] = digest.hex

    def _widened(self, parts: list[Any]) -> NDArray[np.float32]:
        values = parts[0]
        if len(parts) > 1:
            size, bits = self._quantization["group_size"], self._quantization["bits"]
            values = self._mx.dequantize(*(self._exact(part) for part in parts), group_size=size, bits=bits)
        return np.array(values.astype(self._mx.float32))

    def _exact(self, part: Any) -> Any:
        """Scales and biases in float32: in 16 bits the product would be rounded once more."""
        return part if part.dtype == self._mx.uint32 else part.astype(self._mx.float32)

    def _scales(self, name: str) -> str:
        return f"{name.removesuffix('weight')}scales"
