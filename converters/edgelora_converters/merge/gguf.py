"""Merging into a GGUF base: every tensor in the type it is stored in, the header kept. Owns the file's layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from edgelora_converters.gguf.header_edit import with_keys
from edgelora_converters.lora.adapter import Target
from edgelora_converters.merge.rows import Block, Changes, Wide, merged_blocks
from edgelora_converters.merge.stored import check_type, copied, stored_rows
from edgelora_converters.tensors.row_order import interleave
from edgelora_converters.weights.base import BaseWeights
from edgelora_models.errors import BaseError
from edgelora_models.gguf_header import GgufHeader, read_header
from edgelora_models.gguf_types import GGML_TYPES
from edgelora_models.shape import LlamaShape

PREFIX = "edgelora.merge."


def write(
    base: Path,
    out: Path,
    weights: BaseWeights,
    changes: Changes,
    *,
    facts: Mapping[str, str],
    progress: Callable[[int], None],
) -> None:
    """Write the base with `changes` to the new file `out`; `facts` become keys `edgelora.merge.N.<name>`.

    `progress` is called with bytes written, again and again. Raises AdapterUnsupported for a type nothing can be
    rounded to here or values that leave it, BaseError, StorageError, OSError.
    """
    header = read_header(base)
    targets = {target.gguf_path: target for target in changes}
    for name, target in targets.items():
        check_type(target, GGML_TYPES[header.tensors[name].type].name)
    start = with_keys(base, header, numbered(header.metadata, facts))
    with base.open("rb") as source, out.open("xb") as file:
        file.write(start)
        for name, tensor in header.tensors.items():
            file.write(b"\0" * (-(file.tell() - len(start)) % header.alignment))
            blocks = (
                copied(source, tensor.offset, tensor.nbytes)
                if name not in targets
                else _merged(weights, targets[name], changes, GGML_TYPES[tensor.type].name)
            )
            for block in blocks:
                progress(file.write(block))
        file.write(b"\0" * (-(file.tell() - len(start)) % header.alignment))


def check(base: Path, out: Path) -> None:
    """Raise BaseError unless the merged file holds exactly the base's tensors in the base's forms."""
    written, expected = (_forms(read_header(path)) for path in (out, base))
    if written != expected:
        raise BaseError("merge_mismatch", f"{out} does not hold the tensors of {base}.", "Merge again.")


def numbered(keys: Mapping[str, object], facts: Mapping[str, str]) -> dict[str, str]:
    """Return `facts` under the first number that no earlier merge has taken."""
    number = 1
    while any(key.startswith(f"{PREFIX}{number}.") for key in keys):
        number += 1
    return {f"{PREFIX}{number}.{name}": value for name, value in sorted(facts.items())}


def _forms(header: GgufHeader) -> list[tuple[str, tuple[int, ...], int]]:
    return [(name, tensor.shape, tensor.type) for name, tensor in header.tensors.items()]


def _merged(weights: BaseWeights, target: Target, changes: Changes, kind: str) -> Iterator[bytes]:
    for block in merged_blocks(weights, target, changes[target]):
        yield stored_rows(target, _file_order(block, target, weights.llama), kind).tobytes()


def _file_order(block: Block, target: Target, shape: LlamaShape) -> Wide:
    """Interleave a block's rows, which are of whole heads, into the file's order."""
    heads = target.module.rotary_heads(shape)
    if heads is None:
        return block.after
    return interleave(block.after, len(block.after) * heads // target.module.out_features(shape))
