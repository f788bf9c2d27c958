"""GGUF adapters as the store would keep them: mapped files in a temporary folder on the same disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgelora_converters.gguf import adapter_reader as gguf_adapter_reader
from edgelora_converters.lora.adapter import LoraAdapter, LoraPair
from edgelora_converters.mapped import writer as mapped_writer
from edgelora_converters.tensors.row_order import deinterleave
from edgelora_models.shape import LlamaShape


@contextmanager
def mapped_copies(paths: Sequence[Path], shape: LlamaShape) -> Iterator[list[Path]]:
    """The same adapters in edgelora's own layout, in the same order; deleted at the end."""
    with tempfile.TemporaryDirectory(dir=paths[0].parent, prefix=".mapped-") as folder:
        yield [_copy(path, shape, Path(folder, path.stem + mapped_writer.SUFFIX)) for path in paths]


def _copy(path: Path, shape: LlamaShape, out: Path) -> Path:
    pairs = {
        target: LoraPair(a, deinterleave(b, target.module.rotary_heads(shape)), 1.0)
        for target, (a, b) in gguf_adapter_reader.read(path, shape).items()
    }
    mapped_writer.write(LoraAdapter(pairs, source_digest="0" * 64, base_model=None), shape, out, provenance={})
    return out
