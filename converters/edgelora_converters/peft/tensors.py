"""Sorting a file's tensors into modules, and checking their shapes against a base. Reads no values.

Every tensor is claimed for a module, known to be of the training alone, left to be compared with the base, or a reason
to refuse the adapter: nothing that was trained is dropped in silence. `peft.tensor_names` owns the names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edgelora_converters.lora.adapter import Target
from edgelora_converters.peft.config import PeftConfig
from edgelora_converters.peft.folder import WEIGHTS_NAME
from edgelora_converters.peft.forms import Form
from edgelora_converters.peft.other_families import family_of
from edgelora_converters.peft.problems import Problems
from edgelora_converters.peft.tensor_names import TRAINING_ONLY, Kind, Leaf, Names, kind_of, listed
from edgelora_converters.tensors.safetensors_reader import SafetensorsFile
from edgelora_models.errors import AdapterCorrupt, AdapterIncompatible
from edgelora_models.files import quoted
from edgelora_models.modules import BY_HF, EMBEDDING, HEAD, LINEAR_MODULES
from edgelora_models.shape import LlamaShape

COMPARED: tuple[Leaf, ...] = ("base_layer.weight", "weight")
"""Whole matrices of the base: see `replaced`."""

TOKEN_ROWS: Leaf = "token_adapter.trainable_tokens_delta"
"""Rows that replace the base's: see `peft_token_rows`."""

_REASONS: Mapping[Leaf, str] = {
    "lora_magnitude_vector": "it belongs to DoRA, and the configuration has no use_dora",
    "lora_embedding_A": "it adapts the embedding",
    "lora_embedding_B": "it adapts the embedding",
    TOKEN_ROWS: "it replaces rows of the embedding, which the configuration does not say",
    "base_layer.bias": "it is a copy of the base's own bias, which a Llama has not",
    "lora_B.bias": "it is a bias of lora_B, which the configuration does not have",
    "lora_diag": "it belongs to KaSA, which the configuration does not have",
    "lora_E": "it belongs to AdaLoRA, which the configuration does not have",
    "bias": "it is a bias, which a Llama has not",
}
_CODES: Mapping[Leaf, str] = {
    TOKEN_ROWS: "adapter_token_rows",
    "base_layer.bias": "adapter_bias",
    "bias": "adapter_bias",
}
_RETRAIN = "Train LoRA on the linear modules and save it with PEFT, or merge the adapter into its base"
_OF_A_LLAMA = "edgelora runs Llama bases: give an adapter that was trained on one"
_USE_DORA = (
    'If it was trained with DoRA, add "use_dora": true to adapter_config.json. torchtune leaves that out, but it saves '
    "the magnitudes of q_proj and k_proj in another row order than PEFT: merge such an adapter where it was trained"
)
_AGAIN = "Save the adapter again with PEFT; both files come from one save."


@dataclass(frozen=True, slots=True)
class Stored:
    """The names of one module's tensors."""

    a: str
    b: str
    factors: str | None = None
    """Vector with a number for each rank: KaSA's lora_diag, AdaLoRA's lora_E."""
    magnitude: str | None = None
    bias: str | None = None


def claimed(config: PeftConfig, kind: Kind) -> tuple[Leaf, ...]:
    """Return the leaves that a module of that kind has, all of them: A, B, and what the configuration adds."""
    if kind == "norm":
        return ()
    if kind == "embedding":
        factors: tuple[Leaf, ...] = ("lora_embedding_A", "lora_embedding_B")
        return (*factors, "lora_magnitude_vector") if config.use_dora else factors
    optional: dict[Leaf, bool] = {
        "lora_diag": config.kasa,
        "lora_E": config.adalora is not None,
        "lora_magnitude_vector": config.use_dora,
        "lora_B.bias": config.lora_bias,
    }
    return ("lora_A", "lora_B", *(leaf for leaf, there in optional.items() if there))


def sort_tensors(config: PeftConfig, names: Names, problems: Problems) -> dict[Target, Stored]:
    """Return the tensors of every adapted module, layer by layer; what is no part of one goes to `problems`.

    Raises AdapterCorrupt where a module lacks one, or there are none.
    """
    _report_foreign(config, names, problems)
    modules: dict[Target, Stored] = {}
    for path, leaves in names.modules.items():
        expected = claimed(config, kind_of(path))
        have = [leaf for leaf in expected if leaf in leaves]
        if not have:
            continue
        if len(have) < len(expected):
            if problems.found:  # which may be why
                continue
            raise _incomplete(path, leaves[have[0]], next(leaf for leaf in expected if leaf not in leaves))
        modules[_target(path)] = _stored(leaves)
    if not modules and not problems.found:
        message = f"{WEIGHTS_NAME} holds no {'adapted modules' if names.modules else 'tensors'}."
        raise AdapterCorrupt("adapter_empty", message, "Save the adapter again.")
    order = {module: i for i, module in enumerate(LINEAR_MODULES)}
    return dict(sorted(modules.items(), key=lambda item: (item[0].depth, order.get(item[0].module, 0))))


def _report_foreign(config: PeftConfig, names: Names, problems: Problems) -> None:
    foreign: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name in names.unknown:
        remedy = _OF_A_LLAMA if family_of(name) else _RETRAIN
        foreign.setdefault(("adapter_tensor", remedy), []).append((name, _unknown(name)))
    for path, leaves in names.modules.items():
        kind = kind_of(path)
        recognized = {*claimed(config, kind), *TRAINING_ONLY, *COMPARED}
        if path in config.token_indices:
            recognized.add(TOKEN_ROWS)
        for leaf, name in leaves.items():
            if leaf not in recognized:
                reason = _REASONS.get(leaf, f"the {kind} has no such factor")
                remedy = _USE_DORA if leaf == "lora_magnitude_vector" else _RETRAIN
                foreign.setdefault((_CODES.get(leaf, "adapter_tensor"), remedy), []).append((name, reason))
    for (code, remedy), reasons in foreign.items():
        message = f"it is in {WEIGHTS_NAME}: {listed(reasons)}"
        problems.add(code, reasons[0][0], message, remedy)


def _unknown(name: str) -> str:
    if name.endswith((".lora_a", ".lora_b")):
        return "it is an MLX adapter's"
    family = family_of(name)
    return f"it is of another architecture: {family}" if family else "it is no tensor of a Llama's adapter"


def _stored(leaves: Mapping[Leaf, str]) -> Stored:
    embedding = "lora_embedding_A" in leaves
    return Stored(
        a=leaves["lora_embedding_A" if embedding else "lora_A"],
        b=leaves["lora_embedding_B" if embedding else "lora_B"],
        factors=leaves.get("lora_diag") or leaves.get("lora_E"),
        magnitude=leaves.get("lora_magnitude_vector"),
        bias=leaves.get("lora_B.bias"),
    )


def _incomplete(path: str, alone: str, missing: Leaf) -> AdapterCorrupt:
    if missing in ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"):
        code, message = "adapter_half_pair", f"The tensor {alone} stands alone: its {missing} is missing."
    else:
        code, message = "adapter_incomplete", f"{path} lacks its {missing}, which the configuration asks for."
    return AdapterCorrupt(code, message, "The file is incomplete: save the adapter again.", param=alone)


def _target(path: str) -> Target:
    kind = kind_of(path)
    if kind == "linear":
        _, _, layer, module = path.split(".", 3)
        return Target(int(layer), BY_HF[module])
    return Target(None, EMBEDDING if kind == "embedding" else HEAD)


def check_filled(config: PeftConfig, weights: SafetensorsFile) -> None:
    """Refuse empty tensors. AdaLoRA leaves modules with rank 0: those are as they should be."""
    for name, info in weights.tensors.items():
        if 0 in info.shape and not (config.adalora and len(info.shape) == 2):
            raise AdapterCorrupt(
                "adapter_tensor_empty",
                f"The tensor {quoted(name)} has the shape {list(info.shape)}: it is empty.",
                "It was saved from within DeepSpeed ZeRO-3: gather the weights and save again.",
                param=name,
            )


def check_shapes(
    weights: SafetensorsFile, stored: Mapping[Target, Stored], forms: Mapping[Target, Form], shape: LlamaShape
) -> None:
    """Raise AdapterIncompatible for layers and widths of another base, AdapterCorrupt for what fits no base."""
    for target, names in stored.items():
        if target.layer is not None and target.layer >= shape.layers:
            last = shape.layers - 1
            message = f"it is for layer {target.layer}, but the base has {shape.layers} layers (0 to {last})"
            raise _incompatible(names.a, message)
        rank = _check_factors(weights, target, names, forms[target], shape)
        for name, length in _vectors(names, rank, target.module.out_features(shape)):
            shape_of = weights.tensors[name].shape
            if shape_of not in ((length,), (length, 1)):
                raise _misshapen(name, shape_of, f"that of {length} numbers")


def _check_factors(weights: SafetensorsFile, target: Target, names: Stored, form: Form, shape: LlamaShape) -> int:
    a, b = weights.tensors[names.a].shape, weights.tensors[names.b].shape
    for name, form_shape in ((names.a, a), (names.b, b)):
        if len(form_shape) != 2:
            raise _misshapen(name, form_shape, "that of a matrix")
    rank, width, out = a[0], target.module.in_features(shape), target.module.out_features(shape)
    wanted_a, wanted_b = form.stored_a(rank, width), form.stored_b(rank, out)
    if wanted_a is None or wanted_b is None:
        message = f"rank {rank} or its widths, {width} to {out}, do not divide into its blocks or groups"
        raise AdapterCorrupt("adapter_tensor_shape", f"{target.hf_path}: {message}.", _AGAIN, param=names.a)
    if a[1] != wanted_a[1]:
        raise _incompatible(names.a, f"its rows have {a[1]} elements; the base needs {wanted_a[1]}")
    if b[0] != wanted_b[0]:
        raise _incompatible(names.b, f"it has {b[0]} rows; the base needs {wanted_b[0]}")
    if b[1] != wanted_b[1]:
        message = f"{names.a} has rank {rank}, but its lora_B has rank {b[1] * form.b_blocks}."
        raise AdapterCorrupt(
            "adapter_rank", message, "The file mixes two adapters: save the adapter again.", param=names.a
        )
    return rank


def _vectors(names: Stored, rank: int, out: int) -> Iterator[tuple[str, int]]:
    for name, length in ((names.factors, rank), (names.magnitude, out), (names.bias, out)):
        if name is not None:
            yield name, length


def _misshapen(name: str, shape: tuple[int, ...], expected: str) -> AdapterCorrupt:
    message = f"The tensor {name} has the shape {list(shape)}, not {expected}."
    return AdapterCorrupt("adapter_tensor_shape", message, _AGAIN, param=name)


def _incompatible(name: str, what: str) -> AdapterIncompatible:
    return AdapterIncompatible(
        "adapter_shape",
        f"The adapter does not fit this base: of the tensor {name}, {what}.",
        "It was made for another base: choose that base (edgelora base ls), or train the adapter on this one.",
        param=name,
    )
