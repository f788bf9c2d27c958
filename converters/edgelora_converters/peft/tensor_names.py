"""The names of an adapter's tensors: what every producer calls them, brought to one module and one leaf each.

Owns the spelling, not what a leaf means. PEFT writes `base_model.model.<module>.<leaf>`; raw state dicts have the
adapter's name in the leaf; torch.compile, FSDP, DDP and checkpoint wrappers put theirs between the modules; multimodal
models have the Llama below `language_model`; some writers leave the prefix out. The set of leaves is closed: a name
that ends in none of them is unknown, and the reader refuses it.

Source: PEFT 0.21.2, get_peft_model_state_dict and the layers of tuners/lora and tuners/adalora.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from edgelora_models.errors import AdapterCorrupt, AdapterUnsupported
from edgelora_models.files import quoted
from edgelora_models.modules import LINEAR_MODULES

Leaf = Literal[
    "lora_A",
    "lora_B",
    "lora_B.bias",
    "lora_magnitude_vector",
    "lora_embedding_A",
    "lora_embedding_B",
    "lora_diag",
    "lora_E",
    "ranknum",
    "lora_velora_embed",
    "lora_monteclora_sampler.std_prior",
    "lora_monteclora_sampler.expert_weights_prior",
    "lora_monteclora_sampler.gaussian_var_prior",
    "lora_monteclora_sampler.expert_weights",
    "token_adapter.trainable_tokens_delta",
    "base_layer.weight",
    "base_layer.bias",
    "weight",
    "bias",
]
"""Role of a tensor in its module, in PEFT's words. `base_layer.*` is a frozen copy of the base's own, whatever wraps it
(`original_module` for modules_to_save); `weight` and `bias` are what modules_to_save or bias trained in its place.
AdaLoRA writes its `lora_A` and `lora_B` without `.weight`."""

Kind = Literal["linear", "embedding", "head", "norm"]

TRAINING_ONLY: frozenset[Leaf] = frozenset(
    {
        "ranknum",
        "lora_velora_embed",
        "lora_monteclora_sampler.std_prior",
        "lora_monteclora_sampler.expert_weights_prior",
        "lora_monteclora_sampler.gaussian_var_prior",
        "lora_monteclora_sampler.expert_weights",
    }
)
"""Leaves that a trained adapter's output does not depend on."""

_PARAMETERS: tuple[Leaf, ...] = (
    "lora_embedding_A",
    "lora_embedding_B",
    "lora_diag",
    "lora_E",
    "ranknum",
    "lora_velora_embed",
    "token_adapter.trainable_tokens_delta",
)
"""Leaves that are parameters of their module, not modules with a `weight`."""


def _spellings() -> Iterator[tuple[str, Leaf]]:
    """Yield every way a leaf is written; a star stands for an adapter's name."""
    modules: tuple[Leaf, ...] = ("lora_A", "lora_B", "lora_magnitude_vector")
    for leaf in modules:
        yield from ((f"{leaf}{end}", leaf) for end in ("", ".*", ".weight", ".*.weight"))
    for leaf in _PARAMETERS:
        yield from ((leaf, leaf), (f"{leaf}.*", leaf))
    yield from (("lora_B.bias", "lora_B.bias"), ("lora_B.*.bias", "lora_B.bias"))
    for leaf in TRAINING_ONLY:
        sampler, _, name = leaf.partition(".")
        if name:
            yield from ((leaf, leaf), (f"{sampler}.*.{name}", leaf))
    frozen = ("base_layer", "original_module", "token_adapter.base_layer")
    yield from ((f"{wrapper}.weight", "base_layer.weight") for wrapper in frozen)
    yield from ((f"{wrapper}.bias", "base_layer.bias") for wrapper in frozen)
    yield from (("weight", "weight"), ("modules_to_save.*.weight", "weight"))
    yield from (("bias", "bias"), ("modules_to_save.*.bias", "bias"))


_SPELLINGS: Mapping[str, Leaf] = dict(_spellings())

_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"})
"""Path components that torch.compile, FSDP, activation checkpointing and DistributedDataParallel insert."""
_PREFIX = "base_model.model."

_ROOTS = ("model", "language_model.model", "model.language_model")
"""Paths that stand for `model`: plain; multimodal models before and since transformers 4.52."""
_HEAD_ROOTS: Mapping[str, tuple[str, ...]] = {
    "lm_head": ("model", "model.language_model"),
    "language_model.lm_head": ("language_model.model",),
}
"""Names of the head beside each root."""

_LAYER = r"layers\.(?:0|[1-9][0-9]{0,4})"
_LINEAR = "|".join(re.escape(module.hf) for module in LINEAR_MODULES)
_MODULE = re.compile(
    rf"(?:(?P<root>language_model\.model|model\.language_model|model)\."
    rf"(?P<inner>(?P<linear>{_LAYER}\.(?:{_LINEAR}))|(?P<embedding>embed_tokens)"
    rf"|(?P<norm>norm|{_LAYER}\.(?:input|post_attention)_layernorm))"
    r"|(?P<head>(?:language_model\.)?lm_head))\.(?P<leaf>.+)"
)
_NUMBER = re.compile(r"\.\d+\.")
_MAX_LISTED = 40


@dataclass(frozen=True, slots=True)
class Names:
    """The tensors of an adapter's file, sorted out."""

    modules: Mapping[str, Mapping[Leaf, str]]
    """By module (its path in a Hugging Face Llama, such as `model.layers.0.self_attn.q_proj`) and leaf, the tensor's
    name in the file."""
    unknown: tuple[str, ...]
    """Names that are no leaf of a Llama's module, as they stand in the file."""
    root: str
    """Path that the training had in place of `model`; PEFT matches expressions against it."""

    def spelled(self, path: str) -> str:
        """Return a module's path as the training had it."""
        if path == "lm_head":
            return next(head for head, roots in _HEAD_ROOTS.items() if self.root in roots)
        return self.root + path.removeprefix("model")

    def having(self, leaf: Leaf) -> dict[str, str]:
        """Return the tensors that are `leaf`, by module."""
        return {path: leaves[leaf] for path, leaves in self.modules.items() if leaf in leaves}


@dataclass(frozen=True, slots=True)
class _Parsed:
    """A tensor's name, parsed."""

    module: str
    leaf: Leaf
    adapter: str | None
    roots: tuple[str, ...]


def sort_names(names: Iterable[str]) -> Names:
    """Return every tensor's module and leaf, modules in the order of the file.

    Raises AdapterCorrupt where two names are the same tensor, AdapterUnsupported where the file holds two adapters or
    two spellings of the model's path.
    """
    modules: dict[str, dict[Leaf, str]] = {}
    unknown: list[str] = []
    adapters: dict[str, str] = {}
    twins: list[tuple[str, str]] = []
    roots = set(_ROOTS)
    for name in names:
        parsed = _parse(name)
        if parsed is None:
            unknown.append(name)
            continue
        if parsed.adapter is not None:
            adapters.setdefault(parsed.adapter, name)
        roots.intersection_update(parsed.roots)
        first = modules.setdefault(parsed.module, {}).setdefault(parsed.leaf, name)
        if first != name:
            twins.append((first, name))
    _check_one(adapters, twins, roots)
    return Names(modules, tuple(unknown), next(root for root in _ROOTS if root in roots))


def kind_of(path: str) -> Kind:
    """Return the kind of module at a path of `Names.modules`."""
    if path in ("lm_head", "model.embed_tokens"):
        return "head" if path == "lm_head" else "embedding"
    return "norm" if path.endswith("norm") else "linear"


def listed(names: Iterable[tuple[str, str]]) -> str:
    """Return the names with a reason each, for a message: those that differ only in the layer's number are one
    entry."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, reason in names:
        groups.setdefault((_NUMBER.sub(".N.", name), reason), []).append(name)
    lines = [
        f"{quoted(same[0] if len(same) == 1 else like)} ({f'{len(same)} tensors; ' if len(same) > 1 else ''}{reason})"
        for (like, reason), same in groups.items()
    ]
    more = f"; and {len(lines) - _MAX_LISTED} more kinds" if len(lines) > _MAX_LISTED else ""
    return "; ".join(lines[:_MAX_LISTED]) + more


def _parse(name: str) -> _Parsed | None:
    bare = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
    match = _MODULE.fullmatch(bare.removeprefix(_PREFIX))
    parsed = match and _leaf(match["leaf"])
    if match is None or parsed is None:
        return None
    leaf, adapter = parsed
    if match["head"]:
        return _Parsed("lm_head", leaf, adapter, _HEAD_ROOTS[match["head"]])
    return _Parsed(f"model.{match['inner']}", leaf, adapter, (match["root"],))


def _leaf(text: str) -> tuple[Leaf, str | None] | None:
    """Return a leaf and the adapter's name in it."""
    if text in _SPELLINGS:
        return _SPELLINGS[text], None
    parts = text.split(".")
    for place, part in enumerate(parts):
        leaf = _SPELLINGS.get(".".join((*parts[:place], "*", *parts[place + 1 :])))
        if leaf is not None and part not in ("", "*"):
            return leaf, part
    return None


def _check_one(adapters: Mapping[str, str], twins: list[tuple[str, str]], roots: set[str]) -> None:
    if len(adapters) > 1:
        raise AdapterUnsupported(
            "adapter_many",
            f"The file holds tensors of {len(adapters)} adapters: {', '.join(map(quoted, sorted(adapters)[:20]))}.",
            "Save one of them alone: save_pretrained(folder, selected_adapters=[NAME]).",
            param=next(iter(adapters.values())),
        )
    if twins:
        first, other = twins[0]
        raise AdapterCorrupt(
            "adapter_tensor_twice",
            f"{quoted(first)} and {quoted(other)} are the same tensor.",
            "Save the adapter again.",
            param=other,
        )
    if not roots:
        raise AdapterUnsupported(
            "adapter_many",
            "The file's tensors are of two models: some of their names have language_model where others do not.",
            "Save the adapter again from the model it was trained on.",
        )
