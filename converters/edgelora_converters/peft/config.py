"""PEFT's `adapter_config.json`: a closed schema over every field of LoraConfig, and what the accepted fields mean.

Owns the configuration, not the tensors. The rules follow PEFT 0.21.2: each of its fields is either read here, or
harmless whatever it says, or must be off. A field PEFT does not have must be empty. Where a file breaks several rules,
one error names them all. Nothing is defaulted that changes the result: `r` and `lora_alpha` must be written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgelora_converters.peft import variants
from edgelora_converters.peft.config_fields import Fields, is_off, shown
from edgelora_converters.peft.forms import BlockDiagonal
from edgelora_converters.peft.problems import Problems
from edgelora_converters.peft.variants import AdaLora, Initialisation
from edgelora_models.errors import AdapterCorrupt, AdapterUnsupported
from edgelora_models.files import read_json

CONFIG_NAME = "adapter_config.json"
MAX_CONFIG_BYTES = 1 << 20

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
        "megatron_config",  # how training was spread; a shard does not have the shapes asked for
        "megatron_core",
        "monteclora_config",  # noise while training; PEFT runs and merges the plain factors
        "peft_version",
        "revision",
        "runtime_config",
        "task_type",
        "velora_config",  # what is kept for the backward pass
    }
)
"""Fields that do not change what a converted adapter computes, whatever they say."""

_MERGE = "Merge the adapter into its base where it was trained (merge_and_unload) and use that base."

MUST_BE_OFF: Mapping[str, tuple[str, str, str]] = {
    "arrow_config": ("adapter_arrow", "Arrow routes every token among several adapters", _MERGE),
    "ensure_weight_tying": (
        "adapter_weight_tying",
        "it ties adapters of the embedding and the head",
        "Leave embed_tokens and lm_head out.",
    ),
    "layer_replication": (
        "adapter_layer_replication",
        "the adapter is for a base with another stack of layers, made from this one's",
        _MERGE,
    ),
}
"""Fields that must be absent, null, false or empty: the refusal's code, why, and what to do."""


_TOKEN_MODULES = {
    "embed_tokens": "model.embed_tokens",
    "model.embed_tokens": "model.embed_tokens",
    "lm_head": "lm_head",
}


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
    """Numbers of the adapted layers; None for all layers."""
    base_model: str | None
    base_class: str | None
    """transformers' class of the model it was trained on, where PEFT noted it (`auto_mapping`)."""
    peft_version: str | None
    invocation: tuple[int, ...] = ()
    """aLoRA: the token ids it acts from on. Empty is plain LoRA."""
    target_parameters: tuple[str, ...] = ()
    """Ends of parameters' paths, such as `q_proj.weight`: adapted like the modules they belong to."""
    modules_to_save: tuple[str, ...] = ()
    """Ends of modules' paths that are saved whole."""
    use_dora: bool = False
    lora_bias: bool = False
    token_indices: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """By the path of embedding or head, the tokens whose rows are replaced."""
    initialisation: Initialisation | None = None
    """Initialisation that took something out of the base's weight; None for any other."""
    kasa: bool = False
    blocks: BlockDiagonal | None = None
    """BD-LoRA."""
    pool: int = 1
    """QALoRA: how many inputs are averaged."""
    adalora: AdaLora | None = None
    """For peft_type ADALORA: `rank` is then its init_r, and the patterns are empty."""


def read_fields(folder: Path) -> dict[str, Any]:
    """Read `folder`/adapter_config.json as JSON. Raises AdapterCorrupt, StorageError."""
    return read_json(folder / CONFIG_NAME, limit=MAX_CONFIG_BYTES, error=AdapterCorrupt)


def parse_config(fields: Mapping[str, Any], problems: Problems | None = None) -> PeftConfig:
    """Check a configuration as parsed from JSON.

    What is wrong is added to `problems`, and the config is then of no use; without them it is raised here, as
    AdapterUnsupported. Another peft_type is raised at once: its fields mean other things.
    """
    kind = fields.get("peft_type")
    if kind not in ("LORA", "ADALORA"):
        raise AdapterUnsupported(
            "peft_type",
            f"{CONFIG_NAME} says peft_type {shown(kind)}; only LORA and ADALORA can be converted.",
            "Some other kinds can be rewritten with peft.tuners.lora.conversion.save_as_lora.",
            param="peft_type",
        )
    collected = Problems() if problems is None else problems
    taking = Fields(fields, collected)
    taking.taken |= {"peft_type", "bias", "base_model_class"}
    config = _adalora(taking) if kind == "ADALORA" else _lora(taking)
    _check_rest(taking)
    if problems is None:
        collected.refuse_any(CONFIG_NAME)
    return config


def _lora(fields: Fields) -> PeftConfig:
    variants.check_together(fields)
    return PeftConfig(
        rank=fields.count("r", fields.take("r")),
        alpha=fields.number("lora_alpha", fields.take("lora_alpha")),
        use_rslora=fields.flag("use_rslora"),
        rank_pattern={k: fields.count("rank_pattern", v) for k, v in fields.patterns("rank_pattern").items()},
        alpha_pattern={k: fields.number("alpha_pattern", v) for k, v in fields.patterns("alpha_pattern").items()},
        target_modules=fields.modules("target_modules"),
        exclude_modules=fields.modules("exclude_modules") or (),
        layers_to_transform=_layers(fields),
        base_model=fields.hint("base_model_name_or_path"),
        base_class=declared_base(fields.fields)[1],
        peft_version=fields.hint("peft_version"),
        invocation=_invocation(fields),
        target_parameters=fields.strings("target_parameters", fields.take("target_parameters")),
        modules_to_save=fields.strings("modules_to_save", fields.take("modules_to_save")),
        use_dora=fields.flag("use_dora"),
        lora_bias=fields.flag("lora_bias"),
        token_indices=_token_indices(fields),
        initialisation=variants.initialisation(fields),
        kasa=variants.kasa(fields),
        blocks=variants.block_diagonal(fields),
        pool=variants.pool(fields),
    )


def _adalora(fields: Fields) -> PeftConfig:
    """Parse AdaLoRA's configuration: its rank is init_r, and neither use_rslora nor alpha_pattern applies."""
    own = variants.adalora(fields)
    fields.taken |= {"init_lora_weights", "qalora_group_size"}  # it initialises its own way
    return PeftConfig(
        rank=own.init_rank,
        alpha=fields.number("lora_alpha", fields.take("lora_alpha")),
        use_rslora=False,
        rank_pattern={},
        alpha_pattern={},
        target_modules=fields.modules("target_modules"),
        exclude_modules=fields.modules("exclude_modules") or (),
        layers_to_transform=_layers(fields),
        base_model=fields.hint("base_model_name_or_path"),
        base_class=declared_base(fields.fields)[1],
        peft_version=fields.hint("peft_version"),
        modules_to_save=fields.strings("modules_to_save", fields.take("modules_to_save")),
        adalora=own,
    )


def declared_base(fields: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return the name of the base that a configuration, PEFT's or mlx-lm's, says it is for, and transformers' class of
    it."""
    mapping = fields.get("auto_mapping")
    classes = (mapping.get("base_model_class") if isinstance(mapping, dict) else None, fields.get("base_model_class"))
    return _first_text(fields.get("base_model_name_or_path"), fields.get("model")), _first_text(*classes)


def _first_text(*values: Any) -> str | None:
    return next((value for value in values if isinstance(value, str) and value), None)


def _layers(fields: Fields) -> frozenset[int] | None:
    pattern = fields.take("layers_pattern")
    listed = pattern if isinstance(pattern, list) else [pattern]
    if not is_off(pattern) and not all(v in ("layers", "model.layers", r"model\.layers") for v in listed):
        fields.refuse("layers_pattern", f"{shown(pattern)} does not name a Llama's layers", 'Write "layers".')
    value = fields.take("layers_to_transform")
    if value is None or value == []:
        return None
    layers = fields.numbers("layers_to_transform", value if isinstance(value, list) else [value])
    return None if layers is None else frozenset(layers)


def _invocation(fields: Fields) -> tuple[int, ...]:
    """PEFT takes an empty list for none, and looks for the tokens in causal language models alone."""
    name, value = "alora_invocation_tokens", fields.take("alora_invocation_tokens")
    if is_off(value):
        return ()
    if fields.fields.get("task_type") != "CAUSAL_LM":
        message = f"with the task_type {shown(fields.fields.get('task_type'))} PEFT never activates it"
        fields.refuse(name, message, 'Save it with task_type="CAUSAL_LM".')
    return fields.numbers(name, value) or ()


def _token_indices(fields: Fields) -> dict[str, tuple[int, ...]]:
    """PEFT takes a list for the embedding's."""
    name, value = "trainable_token_indices", fields.take("trainable_token_indices")
    if is_off(value):
        return {}
    by_module: dict[str, tuple[int, ...]] = {}
    for key, indices in (value if isinstance(value, dict) else {"embed_tokens": value}).items():
        numbers = fields.numbers(name, indices) or ()
        if key not in _TOKEN_MODULES or not numbers or len(set(numbers)) != len(numbers):
            fields.refuse(name, f"{shown(value)} does not name tokens of embed_tokens or lm_head, each once")
            return {}
        by_module[_TOKEN_MODULES[key]] = numbers
    return by_module


def _check_rest(fields: Fields) -> None:
    bias = fields.fields.get("bias")
    if bias not in (None, "none", "all", "lora_only"):  # a Llama has no biases to train: see the tensors
        fields.refuse("bias", f"{shown(bias)} is none, all or lora_only in PEFT")
    for name in sorted(fields.fields.keys() - fields.taken - HARMLESS):
        value = fields.fields[name]
        if is_off(value):
            continue
        if name in MUST_BE_OFF:
            code, why, remedy = MUST_BE_OFF[name]
            fields.refuse(name, f"it is {shown(value)}, and {why}", remedy, code=code)
        else:
            message = f"it is {shown(value)}, and edgelora does not know this field"
            fields.refuse(name, message, "Remove it if it changes nothing.", code="adapter_unknown_field")
