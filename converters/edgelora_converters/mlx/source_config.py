"""The configuration beside an adapter that mlx-lm trained, of all its ages. Owns what its keys mean, not the tensors.

Until October 2024 `num_layers` was called `lora_layers`, and `use_dora` stood in place of `fine_tune_type`. Without
`keys`, q_proj and v_proj were adapted until 0.28.1, and since then every linear module: only the tensors tell which.
Some programs write the same as `keys: ["auto"]`.

Source: mlx-lm's lora.py and tuner/utils.py, from January 2024 to 0.32.2.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgelora_converters.mlx.writer import CONFIG_LIMIT
from edgelora_models.errors import AdapterCorrupt, AdapterUnsupported
from edgelora_models.files import quoted, read_json

FIX = "Correct it, or save the adapter again with mlx-lm."
AUTO = ["auto"]
"""`keys` that leave the choice to the program."""
_ALPHA_UNREAD = "its alpha was not used, as in mlx-lm since June 2024; before that, the scale was scale * alpha / rank"


@dataclass(frozen=True, slots=True)
class MlxConfig:
    """The fields that matter, checked."""

    rank: int
    scale: float
    dora: bool
    keys: frozenset[str] | None
    """Names of the selected modules; None for those that have tensors."""
    last: int
    """Number of layers from the end; 0 or fewer select all."""
    base_model: str | None
    note: str
    """A remark for people on how it was read; mostly empty."""


def read_config(path: Path) -> MlxConfig:
    """Read the configuration at `path`. Raises AdapterCorrupt, AdapterUnsupported for full fine-tunes, StorageError."""
    fields = read_json(path, limit=CONFIG_LIMIT, error=AdapterCorrupt)
    parameters = fields.get("lora_parameters")
    dora = _is_dora(path, fields)
    if not isinstance(parameters, dict):
        raise _bad(path, "lora_parameters")
    rank, scale, keys = (parameters.get(name) for name in ("rank", "scale", "keys"))
    last = fields.get("num_layers", fields.get("lora_layers"))
    if type(rank) is not int or rank < 1:
        raise _bad(path, "rank")
    if not isinstance(scale, int | float) or isinstance(scale, bool) or not abs(scale) <= sys.float_info.max:
        raise _bad(path, "scale")
    if keys is not None and (not isinstance(keys, list) or not all(isinstance(key, str) for key in keys)):
        raise _bad(path, "keys")
    if type(last) is not int:
        raise _bad(path, "num_layers")
    unread = "lora_layers" in fields and "alpha" in parameters
    return MlxConfig(
        rank=rank,
        scale=float(scale),
        dora=dora,
        keys=None if keys is None or keys == AUTO else frozenset(keys),
        last=last,
        base_model=_base_model(fields),
        note=_ALPHA_UNREAD if unread else "",
    )


def _is_dora(path: Path, fields: Mapping[str, Any]) -> bool:
    kind, flag = fields.get("fine_tune_type"), fields.get("use_dora", False)
    if not isinstance(flag, bool):
        raise _bad(path, "use_dora")
    if kind not in (None, "lora", "dora"):
        message = f"{path.name} says fine_tune_type {quoted(str(kind))}: it changes the base's own weights."
        raise AdapterUnsupported("fine_tune_type", message, "Use the tuned model as a base.", param="fine_tune_type")
    return flag if kind is None else kind == "dora"


def _base_model(fields: Mapping[str, Any]) -> str | None:
    """Return the base's name as mlx-lm's trainer, or we, noted it; for people."""
    ours = fields.get("edgelora")
    names = (fields.get("model"), ours.get("trained_on") if isinstance(ours, dict) else None)
    return next((name for name in names if isinstance(name, str) and name), None)


def _bad(path: Path, field: str) -> AdapterCorrupt:
    return AdapterCorrupt("bad_config", f"{path.name} has no usable {field}.", FIX, param=field)
