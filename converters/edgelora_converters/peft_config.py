"""PEFT's `adapter_config.json`: a closed schema over every field of LoraConfig, and what the accepted fields mean.

Owns the configuration, not the tensors. The rules follow PEFT 0.21.2: each of its fields is either read here, or
harmless whatever it says, or must be off. A field PEFT does not have must be empty. Where a file breaks several rules,
one error names them all. Nothing is defaulted that changes the result: `r` and `lora_alpha` must be written.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgelora_converters.pattern import compile_pattern
from edgelora_converters.pattern_nodes import PatternError
from edgelora_models.errors import AdapterCorrupt, AdapterUnsupported
from edgelora_models.files import quoted, read_json

CONFIG_NAME = "adapter_config.json"
MAX_CONFIG_BYTES = 1 << 20
MAX_RANK = 1_024
MAX_PATTERNS = 1_024
"""Entries of rank_pattern or alpha_pattern. EVA writes one per module: 560 at 80 layers."""
PLAIN_KEY = re.compile(r"[\w.-]{1,256}")
"""A pattern's key without anything but names and dots (which still match any character)."""
MAX_LIST = 4_096

HARMLESS = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",  # the initialisations' own settings: init_lora_weights says whether they were used
        "eva_config",
        "fan_in_fan_out",  # how a base's weight is stored; the factors' shapes do not depend on it
        "inference_mode",
        "loftq_config",
        "lora_dropout",  # training only
        "lora_ga_config",
        "megatron_core",
        "peft_version",
        "qalora_group_size",  # means nothing without use_qalora
        "revision",
        "runtime_config",
        "task_type",
    }
)
"""Fields that do not change what a converted adapter computes, whatever they say."""

_PLAIN = "Train again without it, or merge the adapter into its base with PEFT (merge_and_unload) and use that base."

MUST_BE_OFF: Mapping[str, tuple[str, str]] = {
    "arrow_config": ("Arrow routes every token among several adapters", _PLAIN),
    "ensure_weight_tying": ("it ties adapters of the embedding and the head", "Leave embed_tokens and lm_head out."),
    "kasa_config": ("KaSA changes the base's weights", _PLAIN),
    "layer_replication": ("it runs the adapter on a base with a new stack of layers", _PLAIN),
    "lora_bias": ("lora_B has a bias, for which a Llama's linear modules have no place", _PLAIN),
    "megatron_config": ("the adapter may be sharded by Megatron", "Gather the shards and save with PEFT."),
    "modules_to_save": (
        "it replaces whole modules of the base",
        "Train linear modules only, or merge it into its base.",
    ),
    "monteclora_config": ("MonteCLoRA is not supported", _PLAIN),
    "target_parameters": ("it adapts bare parameters and not modules", "Use target_modules."),
    "trainable_token_indices": ("it replaces rows of the embedding", "Train without new tokens, or merge it."),
    "use_bdlora": ("block-diagonal LoRA stores its factors in another form", _PLAIN),
    "use_dora": ("DoRA's change is not of low rank", _PLAIN),
    "use_qalora": ("QALoRA pools the inputs of a GPTQ base", _PLAIN),
    "velora_config": ("VeLoRA is not supported", _PLAIN),
}
"""Fields that must be absent, null, false or empty: why, and what to do."""

SAFE_INITIALISATIONS = frozenset({"gaussian", "orthogonal", "eva", "mica"})
"""Named initialisations that leave the base's weights alone."""

_FIX = "Correct it, or save the adapter again with PEFT."
_WITH_ORIGINAL_BASE = (
    "Save it again with PEFT's save_pretrained(..., path_initial_model_for_weight_conversion=...), "
    "which writes it for the original base."
)


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """The fields that matter, checked."""

    rank: int
    alpha: float
    use_rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    target_modules: str | tuple[str, ...] | None
    """A regular expression, or names; None where the file does not say."""
    exclude_modules: str | tuple[str, ...]
    layers_to_transform: frozenset[int] | None
    """None is all layers."""
    base_model: str | None
    peft_version: str | None
    invocation: tuple[int, ...] = ()
    """aLoRA: the token ids it acts from on. Empty is plain LoRA."""


def read_config(folder: Path) -> PeftConfig:
    """Read and check `folder`/adapter_config.json.

    Raises AdapterCorrupt where it is missing, too large or no JSON object; AdapterUnsupported naming every field that
    cannot be honoured exactly.
    """
    return parse_config(read_json(folder / CONFIG_NAME, limit=MAX_CONFIG_BYTES, error=AdapterCorrupt))


def parse_config(fields: Mapping[str, Any]) -> PeftConfig:
    """Check a configuration as parsed from JSON. Raises AdapterUnsupported naming every field at fault."""
    kind = fields.get("peft_type")
    if kind != "LORA":
        raise AdapterUnsupported(
            "peft_type",
            f"{CONFIG_NAME} says peft_type {_show(kind)}; only LORA can be converted.",
            "Some other kinds can be rewritten with peft.tuners.lora.conversion.save_as_lora.",
            param="peft_type",
        )
    return _Fields(fields).config()


def _show(value: Any) -> str:
    """A value from the file as it may stand in a message: one line of ASCII JSON, cut."""
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:80] + "..."


def _is_off(value: Any) -> bool:
    return value is None or value is False or value in ("", [], {})


class _Fields:
    """Takes the fields one by one and gathers what is wrong, so that one error can name it all."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields = fields
        self.problems: list[tuple[str, str, str]] = []
        """Field, what about it, remedy."""
        self.taken: set[str] = {"peft_type"}

    def config(self) -> PeftConfig:
        config = PeftConfig(
            rank=self.rank("r", self.take("r")),
            alpha=self.alpha("lora_alpha", self.take("lora_alpha")),
            use_rslora=self.flag("use_rslora"),
            rank_pattern={k: self.rank("rank_pattern", v) for k, v in self.patterns("rank_pattern").items()},
            alpha_pattern={k: self.alpha("alpha_pattern", v) for k, v in self.patterns("alpha_pattern").items()},
            target_modules=self.modules("target_modules"),
            exclude_modules=self.modules("exclude_modules") or (),
            layers_to_transform=self.layers(),
            base_model=self.hint("base_model_name_or_path"),
            peft_version=self.hint("peft_version"),
            invocation=self.invocation(),
        )
        self.bias()
        self.initialisation()
        self.layers_pattern()
        self.everything_else()
        self.finish()
        return config

    def take(self, name: str) -> Any:
        self.taken.add(name)
        return self.fields.get(name)

    def refuse(self, name: str, what: str, remedy: str = _FIX) -> None:
        self.problems.append((name, what, remedy))

    def rank(self, name: str, value: Any) -> int:
        if type(value) is int and 1 <= value <= MAX_RANK:
            return value
        self.refuse(name, f"a rank of {_show(value)} is not a whole number from 1 to {MAX_RANK}")
        return 1

    def alpha(self, name: str, value: Any) -> float:
        # A huge whole number has no float; comparing it with one is exact.
        if type(value) in (int, float) and 0 < value <= 1e6 and math.isfinite(value):
            return float(value)
        self.refuse(name, f"an alpha of {_show(value)} is not a number above 0 (and at most 1e6)")
        return 1.0

    def flag(self, name: str) -> bool:
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            self.refuse(name, f"{_show(value)} is neither true nor false")
        return value is True

    def patterns(self, name: str) -> Mapping[str, Any]:
        value = self.take(name)
        if value is None:
            return {}
        if not isinstance(value, dict) or len(value) > MAX_PATTERNS:
            self.refuse(name, f"it must map at most {MAX_PATTERNS} module names to numbers")
            return {}
        for key in (key for key in value if PLAIN_KEY.fullmatch(key) is None):
            self.expression(name, rf"(.*\.)?({key})$")
        return value

    def expression(self, name: str, text: str) -> None:
        try:
            compile_pattern(text)
        except PatternError as e:
            self.refuse(name, f"the expression {quoted(text)} cannot be used: {e}", "Write the modules' plain names.")

    def modules(self, name: str) -> str | tuple[str, ...] | None:
        value = self.take(name)
        if value is None or isinstance(value, str):
            if value and value != "all-linear":
                self.expression(name, value)
            return value
        if not isinstance(value, list) or len(value) > MAX_LIST or not all(isinstance(v, str) for v in value):
            self.refuse(name, f"it must be an expression or a list of at most {MAX_LIST} names")
            return None
        return tuple(value)

    def layers(self) -> frozenset[int] | None:
        value = self.take("layers_to_transform")
        if value is None or value == []:
            return None
        listed = value if isinstance(value, list) else [value]
        if len(listed) > MAX_LIST or not all(type(n) is int and n >= 0 for n in listed):
            self.refuse("layers_to_transform", f"{_show(value)} is not a list of layer numbers")
            return None
        return frozenset(listed)

    def layers_pattern(self) -> None:
        value = self.take("layers_pattern")
        listed = value if isinstance(value, list) else [value]
        if not _is_off(value) and not all(v in ("layers", "model.layers", r"model\.layers") for v in listed):
            self.refuse("layers_pattern", f"{_show(value)} does not name a Llama's layers", 'Write "layers".')

    def hint(self, name: str) -> str | None:
        value = self.take(name)
        return value if isinstance(value, str) and value else None

    def invocation(self) -> tuple[int, ...]:
        """PEFT takes an empty list for none, and looks for the tokens in causal language models alone."""
        name, value = "alora_invocation_tokens", self.take("alora_invocation_tokens")
        if _is_off(value):
            return ()
        if not isinstance(value, list) or len(value) > MAX_LIST or not all(type(n) is int and n >= 0 for n in value):
            self.refuse(name, f"it must be a list of at most {MAX_LIST} token numbers")
            return ()
        if self.fields.get("task_type") != "CAUSAL_LM":
            what = f"with the task_type {_show(self.fields.get('task_type'))} PEFT never activates it"
            self.refuse(name, what, 'Save it with task_type="CAUSAL_LM".')
        return tuple(value)

    def bias(self) -> None:
        value = self.take("bias")
        if value not in (None, "none"):
            self.refuse("bias", f"{_show(value)} trains biases, which a Llama does not have", 'Train with bias="none".')

    def initialisation(self) -> None:
        value = self.take("init_lora_weights")
        if value is None or isinstance(value, bool):
            return
        if not isinstance(value, str) or value.lower() not in SAFE_INITIALISATIONS:
            what = f"{_show(value)} is not known to leave the base's weights alone"
            self.refuse("init_lora_weights", what, _WITH_ORIGINAL_BASE)

    def everything_else(self) -> None:
        for name in sorted(self.fields.keys() - self.taken - HARMLESS):
            value = self.fields[name]
            if _is_off(value):
                continue
            why, remedy = MUST_BE_OFF.get(
                name, ("edgelora does not know this field", "Remove it if it changes nothing.")
            )
            self.refuse(name, f"it is {_show(value)}, and {why}", remedy)

    def finish(self) -> None:
        if not self.problems:
            return
        names = list(dict.fromkeys(name for name, _, _ in self.problems))
        what = "; ".join(f"{_name(name)}: {what}" for name, what, _ in self.problems[:20])
        remedies = " ".join(dict.fromkeys(f"{_name(name)}: {remedy}" for name, _, remedy in self.problems[:20]))
        count = "a setting" if len(names) == 1 else f"{len(names)} settings"
        raise AdapterUnsupported(
            "adapter_config",
            f"{CONFIG_NAME} has {count} that cannot be honoured exactly. {what}.",
            remedies,
            param=", ".join(names[:20]),
        )


def _name(name: str) -> str:
    return name if re.fullmatch(r"\w{1,64}", name) else quoted(name)
