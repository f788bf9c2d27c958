"""Treatment of an adapter's factors to a plain pair: by form, by rank, and by what initialisation took out of the base.

Owns the decision, per adapter and per module; the arithmetic is `forms` and `initial`. What needs the base's weights or
the adapter as it was initialised, and has not got them, is refused here, with what to give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edgelora_converters.lora.adapter import LoraPair, Target
from edgelora_converters.peft.config import PeftConfig
from edgelora_converters.peft.forms import PLAIN, Form
from edgelora_converters.peft.initialization import (
    InitialState,
    leading_columns,
    less_initial,
    less_taken,
    principal,
    tail,
)
from edgelora_converters.peft.problems import Problems
from edgelora_converters.peft.read_options import ReadOptions
from edgelora_converters.weights.base import BaseWeights
from edgelora_models.errors import AdapterCorrupt, AdapterUnsupported
from edgelora_models.modules import EMBEDDING

DOUBT = 1e-4
"""Largest accepted distance, relative to the weight, between what is computed and what training took out; the bfloat16
weights that most adapters are trained beside are rounded by 1e-3."""

_AGAIN = "Save the adapter again with PEFT; both files come from one save."
_CONVERTED = (
    "save it again where it was trained with save_pretrained(..., path_initial_model_for_weight_conversion=...), "
    "which writes it for the original base"
)
_INITIAL = f"give the adapter as it was saved before training (--initial DIR), or {_CONVERTED}"
_BASE = "give the base's weights as they were trained (--base-weights PATH), or"
_MERGE = "merge the adapter into its base where it was trained"


def form_of(config: PeftConfig, path: str) -> Form:
    """Return the form in which the module at `path` (as the training had it) is stored. Raises AdapterCorrupt where
    PEFT could not decide."""
    if config.pool > 1:
        return Form(pool=config.pool)
    if config.blocks is None:
        return PLAIN
    in_a, in_b = (any(piece in path for piece in pieces) for pieces in (config.blocks.a_in, config.blocks.b_in))
    if (in_a and in_b) or (config.blocks.strict and not (in_a or in_b)):
        message = f"use_bdlora says {'both of' if in_a else 'neither of'} the factors of {path} is block-diagonal."
        raise AdapterCorrupt("adapter_config", message, _AGAIN, param="use_bdlora")
    blocks = config.blocks.blocks
    return Form(a_blocks=blocks if in_a else 1, b_blocks=blocks if in_b else 1)


def check_treatable(config: PeftConfig, reading: ReadOptions, problems: Problems) -> None:
    """Report to `problems` what is needed beside the adapter and not there."""
    name = config.initialisation
    if name is not None and reading.initial is None:
        if name not in ("pissa", "olora"):
            message = f"{name} took out of the base what only the adapter saved before training knows"
            problems.add("initial_needed", "init_lora_weights", message, _INITIAL)
        else:
            _check_base("init_lora_weights", f"{name} took a part out of the base", reading.weights, problems)
    if config.kasa:
        _check_base("kasa_config", "KaSA took the smallest singular values out of the base", reading.weights, problems)


def _check_base(field: str, what: str, weights: BaseWeights | None, problems: Problems) -> None:
    remedy = f"{_BASE} {_MERGE if field == 'kasa_config' else _INITIAL}"
    if weights is None:
        problems.add("base_needed", field, f"{what}, whose weights were not given", remedy)
    elif not weights.exact:
        problems.add("base_not_exact", field, f"{what}; the given one is quantized ({weights.precision})", remedy)


def treat(
    config: PeftConfig,
    pairs: Mapping[Target, LoraPair],
    initial: Mapping[Target, LoraPair] | None,
    reading: ReadOptions,
) -> tuple[dict[Target, LoraPair], float]:
    """Return the pairs beside the whole base, and the largest doubt of any (see Taken).

    `initial` are the pairs training began with, where they were given. Raises AdapterUnsupported where the doubt is
    above DOUBT and approximations are not allowed, AdapterCorrupt where `initial` is of another adapter.
    """
    if config.initialisation is not None and initial is not None:
        _check_initial(pairs, initial)
        return {t: p if t.module == EMBEDDING else less_initial(p, initial[t]) for t, p in pairs.items()}, 0.0
    taking = _taking(config, reading.weights)
    if taking is None:
        return dict(pairs), 0.0
    treated, worst = dict(pairs), 0.0
    for done, (target, pair) in enumerate(pairs.items()):
        if reading.progress is not None:
            reading.progress(done, len(pairs))
        if target.module == EMBEDDING:  # PEFT initialises an embedding's factors in its own way
            continue
        if pair.scale == 0:
            message = f"The scale of {target.hf_path} is 0, by which PEFT would have divided."
            raise AdapterUnsupported("adapter_config", message, _AGAIN, param="lora_alpha")
        taken = taking(target, pair)
        if taken.doubt > DOUBT and not reading.allow_approximate:
            raise _doubtful(target, taken.doubt)
        treated[target], worst = less_taken(pair, taken), max(worst, taken.doubt)
    if reading.progress is not None:
        reading.progress(len(pairs), len(pairs))
    return treated, worst


def _taking(config: PeftConfig, weights: BaseWeights | None) -> Callable[[Target, LoraPair], InitialState] | None:
    """Return the function that computes what was taken out of a module's weight; None if nothing was."""
    if weights is None:
        return None
    if config.kasa:
        return lambda target, pair: tail(weights, f"{target.hf_path}.weight", pair.rank)
    if config.initialisation == "pissa":
        return lambda target, pair: principal(weights, f"{target.hf_path}.weight", pair.rank)
    if config.initialisation == "olora":
        return lambda target, pair: leading_columns(weights, f"{target.hf_path}.weight", pair.rank, scale=pair.scale)
    return None


def _check_initial(pairs: Mapping[Target, LoraPair], initial: Mapping[Target, LoraPair]) -> None:
    for target in pairs.keys() | initial.keys():
        trained, other = pairs.get(target), initial.get(target)
        if trained is None or other is None or trained.rank != other.rank or trained.scale != other.scale:
            message = f"The adapter saved before training has another {target.hf_path}: its rank or scale, or none."
            raise AdapterCorrupt("initial_mismatch", message, "Give the one this adapter was trained from.")


def _doubtful(target: Target, doubt: float) -> AdapterUnsupported:
    return AdapterUnsupported(
        "decomposition_doubtful",
        f"What training took out of {target.hf_path} cannot be computed anew exactly: singular values that nearly "
        f"coincide leave it open by {doubt:.0e} of the weight.",
        f"Accept it with --allow-approximate, {_INITIAL}.",
        param=target.hf_path,
    )
