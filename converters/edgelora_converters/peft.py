"""Reads a PEFT adapter folder into a LoraAdapter, checked against the shape of the base it is for.

Owns what is read of it; `peft_names` owns the tensors' names, `peft_folder` where the files are. The tensors are the
truth and the configuration must agree with them; every tensor is claimed or the adapter is refused, so that nothing a
user trained is dropped in silence. Never unpickles.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgelora_converters.lora import LoraAdapter, LoraPair, Target
from edgelora_converters.peft_config import CONFIG_NAME, PeftConfig, read_config
from edgelora_converters.peft_folder import WEIGHTS_NAME, find_adapter, source_digest
from edgelora_converters.peft_names import Kind, Leaf, Names, kind_of, listed, sort_names
from edgelora_converters.peft_rules import scales, selected
from edgelora_converters.safetensors_file import FACTORS, SafetensorsFile, open_safetensors
from edgelora_models.errors import AdapterCorrupt, AdapterIncompatible, AdapterUnsupported
from edgelora_models.files import quoted
from edgelora_models.modules import BY_HF, LINEAR_MODULES
from edgelora_models.shape import LlamaShape

CLAIMED: Mapping[Kind, frozenset[Leaf]] = {"linear": frozenset({"lora_A", "lora_B"})}
"""What is read, by kind of module. A tensor outside it refuses the adapter."""

_LEAF_REASONS: Mapping[Leaf, str] = {
    "lora_magnitude_vector": "it belongs to DoRA",
    "lora_embedding_A": "it adapts the embedding",
    "lora_embedding_B": "it adapts the embedding",
    "token_adapter.trainable_tokens_delta": "it replaces rows of the embedding",
    "base_layer.weight": "it is a copy of the base's own weight",
    "base_layer.bias": "it is a copy of the base's own bias",
    "lora_B.bias": "it is a bias of lora_B",
    "lora_diag": "it belongs to KaSA",
    "lora_E": "it belongs to AdaLoRA",
    "ranknum": "it belongs to AdaLoRA",
    "lora_velora_embed": "it belongs to VeLoRA",
    "bias": "it is a bias",
}
_KIND_REASONS: Mapping[Kind, str] = {
    "norm": "it replaces a norm of the base",
    "head": "it belongs to the output head",
    "embedding": "it belongs to the embedding",
    "linear": "it replaces a module of the base",
}


def read(folder: Path, shape: LlamaShape) -> LoraAdapter:
    """The adapter in `folder`, for a base of `shape`. Only the two files of `peft_folder.FILES` are read.

    Raises AdapterUnsupported (a feature that cannot be honoured exactly, or a pickle), AdapterCorrupt (missing, cut,
    inconsistent or non-finite data), AdapterIncompatible (shapes or layers of another base), StorageError (the disk).
    """
    folder = find_adapter(folder)
    config = read_config(folder)
    _check_invocation(config, shape)
    with open_safetensors(folder / WEIGHTS_NAME, readable=FACTORS) as weights:
        names = sort_names(weights.names)
        _check_claimed(names)
        _check_filled(weights)
        pairs = _pairs(names)
        _check_shapes(weights, pairs, shape)
        _check_selection(config, pairs, shape, names)
        paths = {target: names.spelled(target.hf_path) for target in pairs}
        factors = scales(config, {paths[target]: weights.tensors[pair.a].shape[0] for target, pair in pairs.items()})
        read = {
            target: LoraPair(a=weights.read_f32(pair.a), b=weights.read_f32(pair.b), scale=factors[paths[target]])
            for target, pair in pairs.items()
        }
    return LoraAdapter(
        pairs=read,
        source_digest=source_digest(folder),
        base_model=config.base_model,
        metadata=_facts(config),
        invocation=config.invocation,
    )


@dataclass(frozen=True, slots=True)
class _Pair:
    """The tensor names of one pair."""

    a: str
    b: str


def _check_claimed(names: Names) -> None:
    """Refuse what is not read, all of it in one error."""
    refused = [(name, _unknown_reason(name)) for name in names.unknown]
    for path, leaves in names.modules.items():
        kind = kind_of(path)
        refused += [(name, _reason(kind, leaf)) for leaf, name in leaves.items() if leaf not in CLAIMED.get(kind, ())]
    if refused:
        raise AdapterUnsupported(
            "adapter_tensor",
            f"{WEIGHTS_NAME} holds what cannot be honoured exactly: {listed(refused)}.",
            "Train plain LoRA on the linear modules only and save it with PEFT, or merge the adapter into its base.",
            param=refused[0][0],
        )
    if not names.modules:
        raise AdapterCorrupt("adapter_empty", f"{WEIGHTS_NAME} holds no tensors.", "Save the adapter again.")


def _reason(kind: Kind, leaf: Leaf) -> str:
    if leaf in ("weight", "lora_A", "lora_B"):
        return _KIND_REASONS[kind]
    return _LEAF_REASONS.get(leaf, "it belongs to MonteCLoRA")


def _unknown_reason(name: str) -> str:
    return "it is an MLX adapter's" if name.endswith((".lora_a", ".lora_b")) else "it is no tensor of a Llama's adapter"


def _check_filled(weights: SafetensorsFile) -> None:
    for name, info in weights.tensors.items():
        if 0 in info.shape:
            raise AdapterCorrupt(
                "adapter_tensor_empty",
                f"The tensor {quoted(name)} has the shape {list(info.shape)}: it is empty.",
                "It was saved from within DeepSpeed ZeRO-3: gather the weights and save again.",
                param=name,
            )


def _pairs(names: Names) -> dict[Target, _Pair]:
    """The names of every pair, layer by layer."""
    a, b = names.having("lora_A"), names.having("lora_B")
    for path in sorted(a.keys() ^ b.keys()):
        alone, wanted = (a[path], "lora_B") if path in a else (b[path], "lora_A")
        raise AdapterCorrupt(
            "adapter_half_pair",
            f"The tensor {alone} stands alone: its {wanted} is missing.",
            "The file is incomplete: save the adapter again.",
            param=alone,
        )
    found = {_target(path): _Pair(a[path], b[path]) for path in a}
    order = {module: i for i, module in enumerate(LINEAR_MODULES)}
    return dict(sorted(found.items(), key=lambda item: (item[0].depth, order[item[0].module])))


def _target(path: str) -> Target:
    _, _, layer, module = path.split(".", 3)
    return Target(int(layer), BY_HF[module])


def _check_shapes(weights: SafetensorsFile, names: Mapping[Target, _Pair], shape: LlamaShape) -> None:
    for target, pair in names.items():
        if target.layer is not None and target.layer >= shape.layers:
            raise _incompatible(
                pair.a,
                f"it is for layer {target.layer}, but the base has {shape.layers} layers (0 to {shape.layers - 1})",
            )
        a, b = weights.tensors[pair.a].shape, weights.tensors[pair.b].shape
        for name, found in ((pair.a, a), (pair.b, b)):
            if len(found) != 2:
                raise _no_matrix(name, found)
        wanted_in, wanted_out = target.module.in_features(shape), target.module.out_features(shape)
        if a[1] != wanted_in:
            raise _incompatible(pair.a, f"its rows have {a[1]} elements; the base needs {wanted_in}")
        if b[0] != wanted_out:
            raise _incompatible(pair.b, f"it has {b[0]} rows; the base needs {wanted_out}")
        if a[0] != b[1]:
            raise AdapterCorrupt(
                "adapter_rank",
                f"{pair.a} has rank {a[0]}, but its lora_B has rank {b[1]}.",
                "The file mixes two adapters: save the adapter again.",
                param=pair.a,
            )


def _no_matrix(name: str, found: tuple[int, ...]) -> AdapterCorrupt:
    what = f"The tensor {name} has the shape {list(found)}, not that of a matrix."
    return AdapterCorrupt("adapter_tensor_shape", what, "Save the adapter again with PEFT.", param=name)


def _incompatible(name: str, what: str) -> AdapterIncompatible:
    return AdapterIncompatible(
        "adapter_shape",
        f"The adapter does not fit this base: of the tensor {name}, {what}.",
        "It was made for another base: choose that base (edgelora base ls), or train the adapter on this one.",
        param=name,
    )


def _check_invocation(config: PeftConfig, shape: LlamaShape) -> None:
    if config.invocation and (highest := max(config.invocation)) >= shape.vocab:
        what = f"The adapter's invocation has the token {highest}; this base has {shape.vocab} tokens."
        remedy = "It was made for another base: choose that base (edgelora base ls)."
        raise AdapterIncompatible("adapter_invocation", what, remedy, param="alora_invocation_tokens")


def _check_selection(config: PeftConfig, found: Iterable[Target], shape: LlamaShape, names: Names) -> None:
    """PEFT drops tensors its configuration does not select, and leaves selected modules without tensors untrained."""
    everything = [Target(layer, module) for layer in range(shape.layers) for module in LINEAR_MODULES]
    wanted = selected(config, everything, spelled=names.spelled)
    if wanted is None:
        return
    extra = [target.hf_path for target in found if target not in wanted]
    if extra:
        raise AdapterCorrupt(
            "adapter_modules",
            f"{WEIGHTS_NAME} has tensors for {extra[0]}{_more(extra)}, which {CONFIG_NAME} does not select.",
            "The two files do not belong together, or one was changed: save the adapter again.",
            param=extra[0],
        )
    present = set(found)
    lacking = [target.hf_path for target in everything if target in wanted and target not in present]
    if lacking:
        raise AdapterIncompatible(
            "adapter_modules",
            f"{CONFIG_NAME} selects {lacking[0]}{_more(lacking)} of this base, but {WEIGHTS_NAME} lacks its tensors.",
            "The adapter was made for a base with other layers, or its file is incomplete.",
            param=lacking[0],
        )


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _facts(config: PeftConfig) -> dict[str, str]:
    modules = config.target_modules
    listed = modules if isinstance(modules, str) else ",".join(sorted(modules)) if modules else "unknown"
    return {
        "rank": str(config.rank),
        "alpha": f"{config.alpha:g}",
        "target_modules": listed,
        "use_rslora": "true" if config.use_rslora else "false",
        "peft_version": config.peft_version or "unknown",
    }
