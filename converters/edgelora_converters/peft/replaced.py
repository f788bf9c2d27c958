"""Whole tensors of the base in an adapter's file: copies that PEFT saves along, and modules trained in their place.

Equal to the base they change nothing and are dropped; else the adapter is refused. Without the base's own values they
are refused too: a file cannot show that a matrix is untouched (an enlarged vocabulary, a base that PiSSA changed and a
trained module look the same), and dropping one that is not would run another model than the one that was trained.
Reads block by block: the copy of an 8B's embedding takes 1 GB and is never in memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgelora_converters.peft.config import PeftConfig
from edgelora_converters.peft.folder import WEIGHTS_NAME
from edgelora_converters.peft.problems import Problems
from edgelora_converters.peft.tensor_names import Leaf, Names, listed
from edgelora_converters.peft.tensors import COMPARED
from edgelora_converters.tensors.dtypes import widened
from edgelora_converters.tensors.safetensors_reader import SafetensorsFile
from edgelora_converters.weights.base import BLOCK_BYTES, BaseWeights, llama_tensors
from edgelora_models.errors import AdapterCorrupt
from edgelora_models.shape import LlamaShape

_CODES: dict[Leaf, tuple[str, str, str]] = {
    "base_layer.weight": ("adapter_base_copy", "base_layer", "a copy of the base's own weight"),
    "weight": ("adapter_replaces_module", "modules_to_save", "a whole module in place of the base's"),
}
"""The refusal's code, what it is about, and what the tensor is."""
_MERGE = "Merge the adapter into its base where it was trained (merge_and_unload) and use that base"
_GIVE = "Give the base's weights as they were trained (--base-weights) to have it compared, or:"
_UNKNOWN = "cannot be compared with the base's trained weights"


def check_replaced(
    file: SafetensorsFile,
    names: Names,
    config: PeftConfig,
    weights: BaseWeights | None,
    problems: Problems,
    *,
    shape: LlamaShape,
) -> list[str]:
    """Report to `problems` what is not known to be the base's. Returns the tensors that are, which can be dropped.

    Raises AdapterCorrupt where the file lacks a module that the configuration says was saved.
    """
    _check_saved(names, config, shape)
    dropped: list[str] = []
    for leaf in COMPARED:
        code, about, kind = _CODES[leaf]
        other: dict[str, list[tuple[str, str]]] = {}
        for path, name in names.having(leaf).items():
            why = _difference(file, name, weights, f"{path}.weight")
            if why is None:
                dropped.append(name)
            else:
                other.setdefault(why, []).append((name, kind))
        for why, tensors in other.items():
            remedy = f"{_GIVE} {_MERGE}" if why == _UNKNOWN else _MERGE
            problems.add(code, about, f"the file holds {listed(tensors)}, which {why}", remedy)
    return dropped


def _check_saved(names: Names, config: PeftConfig, shape: LlamaShape) -> None:
    """PEFT saves every module whose path ends so, and passes over names that no module ends in."""
    saved = names.having("weight")
    for path in (name.removesuffix(".weight") for name in llama_tensors(shape)):
        if config.modules_to_save and path.endswith(config.modules_to_save) and path not in saved:
            message = f"modules_to_save says that {path} was saved, but {WEIGHTS_NAME} lacks it."
            raise AdapterCorrupt("adapter_incomplete", message, "Save the adapter again.", param="modules_to_save")


def _difference(file: SafetensorsFile, tensor: str, weights: BaseWeights | None, name: str) -> str | None:
    """Return why a tensor is not known to be the base's `name`; None where it is."""
    if weights is None or name not in weights.names or not weights.is_exact(name):
        return _UNKNOWN
    shape, expected = file.tensors[tensor].shape, weights.shape(name)
    if shape != expected:
        return f"has the shape {list(shape)} where the base has {list(expected)}"
    dtype = file.tensors[tensor].dtype
    for start, stop in _spans(expected):
        own = weights.rows(name, start, stop) if len(expected) == 2 else weights.read(name)
        if not np.array_equal(file.rows_f32(tensor, start, stop), _as_stored(own, dtype)):
            return "differs from the base"
    return None


def _spans(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    if len(shape) == 1:
        yield 0, shape[0]
        return
    step = max(1, BLOCK_BYTES // (4 * shape[1]))
    for start in range(0, shape[0], step):
        yield start, min(start + step, shape[0])


def _as_stored(values: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
    """Return the base's values as a file of that dtype holds them: a base loaded in 16 bits is saved rounded to
    them."""
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    if dtype == "BF16":
        bits = values.view(np.uint32)
        return widened(((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16))
    return values
