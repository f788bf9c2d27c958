"""Reads a PEFT adapter folder into a LoraAdapter, checked against the shape of the base it is for.

Owns the tensor names. The tensors are the truth and the configuration must agree with them; every tensor is claimed or
the adapter is refused, so that nothing a user trained is dropped in silence. Never unpickles.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgelora_converters.lora import LoraAdapter, LoraPair, Target
from edgelora_converters.peft_config import CONFIG_NAME, PeftConfig, read_config
from edgelora_converters.peft_rules import scales, selected
from edgelora_converters.safetensors_file import SafetensorsFile, open_safetensors
from edgelora_models.errors import AdapterCorrupt, AdapterIncompatible, AdapterUnsupported
from edgelora_models.files import quoted, regular_size, unreadable
from edgelora_models.modules import BY_HF, LINEAR_MODULES
from edgelora_models.shape import LlamaShape

WEIGHTS_NAME = "adapter_model.safetensors"
FILES = (CONFIG_NAME, WEIGHTS_NAME)
"""All of an adapter: nothing else in the folder is read."""

Side = Literal["A", "B"]
_KEY = re.compile(
    r"base_model\.model\.model\.layers\.(0|[1-9][0-9]{0,4})\.((?:self_attn|mlp)\.\w+)\.lora_([AB])(?:\.default)?\.weight"
)
_REASONS: tuple[tuple[str, str], ...] = (
    (".lora_magnitude_vector", "it belongs to DoRA"),
    (".lora_embedding_", "it adapts the embedding"),
    (".token_adapter.", "it replaces rows of the embedding"),
    (".base_layer.", "it is a copy of the base's own weight"),
    ("lora_B.bias", "it is a bias of lora_B"),
    (".lora_diag", "it belongs to KaSA"),
    (".lora_E", "it belongs to AdaLoRA"),
    (".modules_to_save", "it replaces a module of the base"),
    ("_orig_mod.", "it was saved from a compiled model: save it from the model before torch.compile"),
    ("_fsdp_wrapped_module.", "it was saved from within FSDP: save it with the trainer's own save_model"),
    ("_checkpoint_wrapped_module.", "it was saved from within a checkpoint wrapper: save it with save_pretrained"),
    (".lora_a", "it is an MLX adapter's"),
    (".bias", "it is a bias"),
    ("norm.weight", "it replaces a norm of the base"),
    ("lm_head", "it belongs to the output head"),
    ("embed_tokens", "it belongs to the embedding"),
)
_MAX_NAMED = 5


def read(folder: Path, shape: LlamaShape) -> LoraAdapter:
    """The adapter in `folder`, for a base of `shape`. Only the two files in FILES are read.

    Raises AdapterUnsupported (a feature that cannot be honoured exactly, or a pickle), AdapterCorrupt (missing, cut,
    inconsistent or non-finite data), AdapterIncompatible (shapes or layers of another base), StorageError (the disk).
    """
    try:
        _check_folder(folder)
    except OSError as e:
        raise unreadable(folder, e) from e
    config = read_config(folder)
    _check_invocation(config, shape)
    with open_safetensors(folder / WEIGHTS_NAME) as weights:
        names = _pairs(weights)
        _check_shapes(weights, names, shape)
        _check_selection(config, names, shape)
        ranks = {target.hf_path: weights.tensors[pair.a].shape[0] for target, pair in names.items()}
        factors = scales(config, ranks)
        pairs = {
            target: LoraPair(a=weights.read_f32(pair.a), b=weights.read_f32(pair.b), scale=factors[target.hf_path])
            for target, pair in names.items()
        }
    return LoraAdapter(
        pairs=pairs,
        source_digest=source_digest(folder),
        base_model=config.base_model,
        metadata=_facts(config),
        invocation=config.invocation,
    )


def source_digest(folder: Path) -> str:
    """sha256 hex over the two files in FILES, each as name, zero byte, length (u64 little endian), bytes.

    What else the folder holds (a README, a tokenizer) does not matter: it does not change what the adapter computes.
    """
    digest = hashlib.sha256()
    for name in FILES:
        path = folder / name
        digest.update(name.encode() + b"\0" + regular_size(path, error=AdapterCorrupt).to_bytes(8, "little"))
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        except OSError as e:
            raise unreadable(path, e) from e
    return digest.hexdigest()


@dataclass(slots=True)
class _Names:
    """The tensor names of one pair, as far as found."""

    a: str = ""
    b: str = ""


def _check_folder(folder: Path) -> None:
    """Say plainly what a folder holds instead of an adapter."""
    if not folder.is_dir():
        raise AdapterCorrupt(
            "adapter_missing", f"{folder} is not a folder.", "Give the folder PEFT saved the adapter in."
        )
    missing = [name for name in FILES if not (folder / name).exists()]
    if not missing:
        return
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    if missing == [WEIGHTS_NAME] and pickles:
        raise refuse_pickle(pickles[0])
    if (folder / "adapters.safetensors").exists():
        raise AdapterUnsupported(
            "adapter_is_mlx", f"{folder} holds an MLX adapter.", "Give the PEFT adapter it was made from."
        )
    raise AdapterCorrupt(
        "adapter_missing",
        f"{folder} does not hold {' or '.join(missing)}.",
        "Give the folder PEFT saved the adapter in" + _inner_hint(folder) + ".",
    )


def _inner_hint(folder: Path) -> str:
    inner = sorted(p.parent.name for p in folder.glob(f"*/{CONFIG_NAME}"))
    return f"; it may be {inner[0]!r} within it" if inner else ""


def refuse_pickle(name: str) -> AdapterUnsupported:
    """The error for weights in Python's pickle form, which can run any code when it is read."""
    return AdapterUnsupported(
        "adapter_is_pickle",
        f"{quoted(name)} is a Python pickle, which can run any code when it is read, so it is never opened.",
        "Load the adapter with PEFT where it was trained and save it again with save_pretrained(folder), "
        f"which writes {WEIGHTS_NAME}.",
    )


def _pairs(weights: SafetensorsFile) -> dict[Target, _Names]:
    """The names of every pair, layer by layer. Every tensor must belong to one."""
    found: dict[Target, _Names] = {}
    foreign: list[str] = []
    for name in weights.names:
        key = _KEY.fullmatch(name)
        if key is None or key[2] not in BY_HF:
            foreign.append(name)
            continue
        pair = found.setdefault(Target(int(key[1]), BY_HF[key[2]]), _Names())
        _claim(pair, "A" if key[3] == "A" else "B", name)
    if foreign:
        raise _foreign(foreign)
    if not found:
        raise AdapterCorrupt("adapter_empty", f"{WEIGHTS_NAME} holds no tensors.", "Save the adapter again.")
    _check_halves(found)
    order = {module: i for i, module in enumerate(LINEAR_MODULES)}
    return dict(sorted(found.items(), key=lambda item: (item[0].depth, order[item[0].module])))


def _claim(pair: _Names, side: Side, name: str) -> None:
    other = pair.a if side == "A" else pair.b
    if other:
        raise AdapterCorrupt(
            "adapter_tensor_twice", f"{other} and {name} are the same factor.", "Save the adapter again.", param=name
        )
    if side == "A":
        pair.a = name
    else:
        pair.b = name


def _check_halves(found: Mapping[Target, _Names]) -> None:
    for pair in found.values():
        if not pair.a or not pair.b:
            alone, wanted = (pair.a, "lora_B") if pair.a else (pair.b, "lora_A")
            raise AdapterCorrupt(
                "adapter_half_pair",
                f"The tensor {alone} stands alone: its {wanted} is missing.",
                "The file is incomplete: save the adapter again.",
                param=alone,
            )


def _foreign(names: list[str]) -> AdapterUnsupported:
    listed = "; ".join(f"{quoted(name)} ({_reason(name)})" for name in names[:_MAX_NAMED])
    more = f"; and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return AdapterUnsupported(
        "adapter_tensor",
        f"{WEIGHTS_NAME} holds what cannot be honoured exactly: {listed}{more}.",
        "Train plain LoRA on the linear modules only and save it with PEFT, or merge the adapter into its base.",
        param=names[0],
    )


def _reason(name: str) -> str:
    return next((reason for part, reason in _REASONS if part in name), "it is not a LoRA factor of a Llama's module")


def _check_shapes(weights: SafetensorsFile, names: Mapping[Target, _Names], shape: LlamaShape) -> None:
    for target, pair in names.items():
        if target.layer is not None and target.layer >= shape.layers:
            raise _incompatible(
                pair.a,
                f"it is for layer {target.layer}, but the base has {shape.layers} layers (0 to {shape.layers - 1})",
            )
        a, b = weights.tensors[pair.a].shape, weights.tensors[pair.b].shape
        for name, found in ((pair.a, a), (pair.b, b)):
            if len(found) != 2 or 0 in found:
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
    empty = 0 in found
    return AdapterCorrupt(
        "adapter_tensor_empty" if empty else "adapter_tensor_shape",
        f"The tensor {name} has the shape {list(found)}, not that of a matrix.",
        "It was saved from within DeepSpeed ZeRO-3: gather the weights and save again."
        if empty
        else "Save the adapter again with PEFT.",
        param=name,
    )


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


def _check_selection(config: PeftConfig, found: Iterable[Target], shape: LlamaShape) -> None:
    """PEFT drops tensors its configuration does not select, and leaves selected modules without tensors untrained."""
    everything = [Target(layer, module) for layer in range(shape.layers) for module in LINEAR_MODULES]
    wanted = selected(config, everything)
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
