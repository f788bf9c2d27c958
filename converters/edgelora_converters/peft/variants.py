"""The settings of LoRA's variants in PEFT's configuration: what each changes in the factors, and which go together.

Owns the meaning of those fields; what is done with it is `forms` and `treatment`. Source: PEFT 0.21.2, LoraConfig,
AdaLoraConfig, and LoraLayer.resolve_lora_variant, which allows one variant at a time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edgelora_converters.lora.adapter import MAX_RANK
from edgelora_converters.peft.config_fields import Fields, is_off, shown
from edgelora_converters.peft.forms import BlockDiagonal

Initialisation = Literal["pissa", "pissa_niter", "olora", "corda", "lora_ga"]
"""Initialisations that take something out of the base's weight."""

SAFE_INITIALISATIONS = frozenset({"gaussian", "orthogonal", "eva", "mica"})
"""Named initialisations that leave the base's weights alone."""

_VARIANTS = (
    *("use_dora", "arrow_config", "use_bdlora", "alora_invocation_tokens", "velora_config", "monteclora_config"),
    *("kasa_config", "use_qalora"),
)
_RESIDUAL = (
    "If the base you run is the one that was saved with the adapter, set init_lora_weights to true in its "
    "adapter_config.json; else merge the adapter where it was trained."
)
_ADALORA_SCHEDULE = ("target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step")


@dataclass(frozen=True, slots=True)
class AdaLora:
    """The fields that AdaLoRA adds to the configuration."""

    init_rank: int
    """The rank training began with: the scale is alpha over it, whatever rank a module was left with."""
    ranks: Mapping[str, int]
    """Remaining rank by the module's path, where that was decided."""


def check_together(fields: Fields) -> None:
    """Refuse variants that PEFT cannot have made together."""
    active = [name for name in _VARIANTS if not is_off(fields.fields.get(name))]
    if fields.fields.get("init_lora_weights") == "mica":
        active.append("init_lora_weights")
    if len(active) > 1:
        message = f"PEFT has no adapter with {' and '.join(active)}"
        fields.refuse(active[0], message, "Save the adapter again with PEFT.", code="adapter_variants")


def initialisation(fields: Fields) -> Initialisation | None:
    """Return the initialisation where it has changed the base."""
    value = fields.take("init_lora_weights")
    if value is None or isinstance(value, bool):
        return None
    name = value.lower() if isinstance(value, str) else ""
    if name in SAFE_INITIALISATIONS:
        return None
    if name in ("pissa", "olora", "corda", "lora_ga"):
        return name  # type: ignore[return-value]
    if re.fullmatch(r"pissa_niter_\d{1,4}", name):
        return "pissa_niter"
    if name == "loftq":
        message = 'with "loftq" the base was replaced by a quantized one that the adapter alone does not give'
        fields.refuse("init_lora_weights", message, _RESIDUAL, code="adapter_loftq")
    else:
        message = f"{shown(value)} is not known to leave the base's weights alone"
        fields.refuse("init_lora_weights", message, _RESIDUAL, code="adapter_init")
    return None


def block_diagonal(fields: Fields) -> BlockDiagonal | None:
    """BD-LoRA's setting. PEFT saved it as `true` in no release: an object or nothing."""
    value = fields.take("use_bdlora")
    if is_off(value):
        return None
    settings = {"target_modules_bd_a", "target_modules_bd_b", "nblocks", "match_strict"}
    if (
        not isinstance(value, dict)
        or not value.keys() <= settings
        or not isinstance(value.get("match_strict", True), bool)
    ):
        fields.refuse("use_bdlora", f"{shown(value)} is not BD-LoRA's setting")
        return None
    return BlockDiagonal(
        a_in=fields.strings("use_bdlora", value.get("target_modules_bd_a")),
        b_in=fields.strings("use_bdlora", value.get("target_modules_bd_b")),
        blocks=fields.count("use_bdlora", value.get("nblocks", 1)),
        strict=value.get("match_strict", True),
    )


def pool(fields: Fields) -> int:
    """Return the number of inputs that QALoRA averages; 1 without it."""
    size = fields.take("qalora_group_size")
    return fields.count("qalora_group_size", size, limit=1 << 16) if fields.flag("use_qalora") else 1


def kasa(fields: Fields) -> bool:
    """Return whether the adapter is KaSA. Its own settings concern the training only."""
    value = fields.take("kasa_config")
    if not is_off(value) and not isinstance(value, dict):
        fields.refuse("kasa_config", f"{shown(value)} is not KaSA's setting")
    return not is_off(value)


def adalora(fields: Fields) -> AdaLora:
    """Return AdaLoRA's settings: the rank it began with, and from the masks in rank_pattern the ranks it left."""
    fields.taken |= {"r", "use_rslora", "alpha_pattern", *_ADALORA_SCHEDULE}
    init_rank = fields.count("init_r", fields.take("init_r"))
    ranks = {}
    for key, mask in fields.mapping("rank_pattern").items():
        path = re.fullmatch(r"([\w.-]{1,256})\.lora_E(\.\w+)?", key)
        if path is None or not isinstance(mask, list) or len(mask) > MAX_RANK or not all(type(m) is bool for m in mask):
            fields.refuse("rank_pattern", f"{shown(key)} does not give a list of true and false for a module's lora_E")
            break
        ranks[path[1]] = sum(mask)
    return AdaLora(init_rank, ranks)
