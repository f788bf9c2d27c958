"""Scaling of a Llama's rotary frequencies: from config.json (transformers 4 or 5) to divisors or the older keys.

Pure. llama.cpp takes the divisors as the tensor `rope_freqs.weight`; mlx-lm reads the two keys of transformers 4 only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelora_models.errors import BaseError

_NUMBERS: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
_DEFAULT_THETA = 10000.0
_REMEDY = "Use a Llama base in its original Hugging Face form."


@dataclass(frozen=True, slots=True)
class Rope:
    """The rotary embedding of a base."""

    theta: float
    kind: str
    """`default`, `linear` or `llama3`"""
    numbers: Mapping[str, float]
    """Parameters of the kind, by transformers' names."""

    def factors(self, head_dim: int) -> NDArray[np.float32] | None:
        """Return the divisor of each rotary frequency, [head_dim / 2]; None if nothing is scaled."""
        if self.kind == "default":
            return None
        if self.kind == "linear":
            return np.full(head_dim // 2, self.numbers["factor"], np.float32)
        factor, low, high, original = (self.numbers[name] for name in _NUMBERS["llama3"])
        frequencies = self.theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
        wavelengths = 2 * math.pi / frequencies
        smooth = (original / wavelengths - low) / (high - low)
        between = 1 / ((1 - smooth) / factor + smooth)
        scaled = np.where(wavelengths > original / low, factor, between)
        return np.where(wavelengths < original / high, 1.0, scaled).astype(np.float32)

    def legacy(self) -> dict[str, Any]:
        """Return `rope_theta` and `rope_scaling` as transformers 4 writes them."""
        scaling = None if self.kind == "default" else {"rope_type": self.kind, **self.numbers}
        return {"rope_theta": self.theta, "rope_scaling": scaling}


def read_rope(fields: Mapping[str, Any]) -> Rope:
    """Read the rope settings of a config.json.

    Raises BaseError (`base_rope`) for a kind, a key or a number that cannot be honoured, and where the keys of
    transformers 4 and 5 are both there and differ.
    """
    ropes = [rope for rope in (_new(fields), _old(fields)) if rope is not None]
    if len(ropes) == 2 and ropes[0] != ropes[1]:
        raise _error("rope_parameters and rope_theta with rope_scaling contradict each other")
    return ropes[0] if ropes else Rope(_DEFAULT_THETA, "default", {})


def _new(fields: Mapping[str, Any]) -> Rope | None:
    """transformers 5: all in `rope_parameters`; the base frequency may also stand beside it."""
    given = fields.get("rope_parameters")
    if not given:
        return None
    return _parse(given, where="rope_parameters", theta=fields.get("rope_theta"))


def _old(fields: Mapping[str, Any]) -> Rope | None:
    """transformers 4: `rope_theta`, and `rope_scaling` where something is scaled."""
    scaling = fields.get("rope_scaling")
    if not scaling and (fields.get("rope_theta") is None or fields.get("rope_parameters")):
        return None
    return _parse(scaling or {}, where="rope_scaling", theta=fields.get("rope_theta"))


def _parse(given: Any, *, where: str, theta: Any) -> Rope:
    if not isinstance(given, dict):
        raise _error(f"{where} is no object")
    kinds = {given[key] for key in ("rope_type", "type") if isinstance(given.get(key), str)} or {"default"}
    kind = kinds.pop()
    if kinds or kind not in _NUMBERS:
        raise _error(f"{where} scales by {' and '.join(map(repr, sorted({kind, *kinds})))}")
    supported = {"rope_type", "type", "rope_theta", "partial_rotary_factor", *_NUMBERS["llama3"]}
    odd = sorted(key for key in given.keys() - supported if given[key] is not None)
    if odd or given.get("partial_rotary_factor", 1.0) not in (None, 1, 1.0):
        raise _error(f"{where} has {', '.join(odd or ['partial_rotary_factor'])}")
    own = given.get("rope_theta")
    if own is not None and theta is not None and own != theta:
        raise _error(f"rope_theta is {theta} and in {where} {own}")
    numbers = {name: _number(given, name, where) for name in _NUMBERS[kind]}
    if kind == "llama3" and not numbers["high_freq_factor"] > numbers["low_freq_factor"]:
        raise _error(f"high_freq_factor of {where} is not above its low_freq_factor")
    chosen = next((value for value in (own, theta) if value is not None), _DEFAULT_THETA)
    return Rope(_positive(chosen, "rope_theta"), kind, numbers)


def _number(given: Mapping[str, Any], name: str, where: str) -> float:
    if given.get(name) is None:
        raise _error(f"{where} has no {name}")
    return _positive(given[name], name)


def _positive(value: Any, name: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise _error(f"{name} is {str(value)[:40]!r}")
    return float(value)


def _error(what: str) -> BaseError:
    supported = "edgelora computes 'default', 'linear' and 'llama3'"
    return BaseError("base_rope", f"config.json asks for another rope: {what}; {supported}.", _REMEDY)
