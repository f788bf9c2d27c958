"""Reads a PEFT adapter folder into a LoraAdapter, checked against the shape of the base it is for.

Owns the order of what is checked and read; `tensor_names` owns the tensors' names, `tensors` which make up a module,
`folder` where the files are, `treatment` how factors become plain. The tensors are the truth and the configuration
must agree with them; every tensor is accounted for or the adapter is refused, so that nothing a user trained is dropped
in silence. Never unpickles.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

from edgelora_converters.lora import selection
from edgelora_converters.lora.adapter import LoraAdapter, LoraPair, Target, TokenRows
from edgelora_converters.peft.config import CONFIG_NAME, PeftConfig, parse_config, read_fields
from edgelora_converters.peft.folder import WEIGHTS_NAME, find_adapter, source_digest
from edgelora_converters.peft.forms import Form, scaled_rows
from edgelora_converters.peft.problems import Problems
from edgelora_converters.peft.read_options import PLAIN, ReadOptions
from edgelora_converters.peft.replaced import check_replaced
from edgelora_converters.peft.target_rules import scales, selected
from edgelora_converters.peft.tensor_names import Names, sort_names
from edgelora_converters.peft.tensors import Stored, check_filled, check_shapes, sort_tensors
from edgelora_converters.peft.token_rows import read_token_rows
from edgelora_converters.peft.treatment import check_treatable, form_of, treat
from edgelora_converters.tensors.lazy import LazyMapping
from edgelora_converters.tensors.safetensors_reader import FACTORS, SafetensorsFile, open_safetensors
from edgelora_models.errors import AdapterCorrupt, AdapterIncompatible
from edgelora_models.modules import LINEAR_MODULES, OUTER_MODULES
from edgelora_models.shape import LlamaShape

_LONGEST_NOTE = 2_000
BESIDE = "beside"
"""In an adapter's metadata: it was read with something beside its own files, which alone do not give it."""


def read(folder: Path, shape: LlamaShape, *, reading: ReadOptions = PLAIN, digest: str | None = None) -> LoraAdapter:
    """Read the adapter in `folder`, for a base of `shape`. Of the folder only the files of `folder.FILES` are read.

    `digest`: the `source_digest` of the folder, where the caller has it; else the files are hashed here.
    Raises AdapterUnsupported (features that cannot be honoured exactly, all of them at once; a pickle), AdapterCorrupt
    (missing, cut, inconsistent or non-finite data), AdapterIncompatible (shapes or layers of another base; `reading`'s
    weights are of another base), BaseError and StorageError.
    """
    folder = find_adapter(folder)
    _check_weights(reading, shape)
    with _opened(folder, shape, reading) as tensors:
        config, rows, pairs = tensors.config, tensors.token_rows, dict(tensors.pairs)
    initial = None
    if config.initialisation is not None and reading.initial is not None:
        with _opened(find_adapter(reading.initial), shape, reading) as first:
            initial = dict(first.pairs)
    treated, doubt = treat(config, pairs, initial, reading)
    return LoraAdapter(
        pairs=treated,
        source_digest=digest or source_digest(folder),
        base_model=config.base_model,
        metadata=_facts(config) | _notes(config, tensors, doubt),
        invocation=config.invocation,
        token_rows=rows,
    )


class ReadTensors(NamedTuple):
    """An adapter as its files have it."""

    config: PeftConfig
    pairs: Mapping[Target, LoraPair]
    """Pairs as trained, made plain; each is read, and its values checked, on access."""
    token_rows: Mapping[Target, TokenRows]
    """Rows that were replaced."""
    dropped: list[str]
    """The tensors that were found to be the base's own."""
    without: tuple[Target, ...]
    """Selected modules that have no tensors."""
    treatment: str
    """Description of what was done to the adapter before it was written, from its file's metadata."""


def opened(folder: Path, shape: LlamaShape) -> AbstractContextManager[ReadTensors]:
    """Open an adapter of plain factors, read module by module: what `peft.writer` writes. Raises as `read`."""
    return _opened(find_adapter(folder), shape, PLAIN)


@contextmanager
def _opened(folder: Path, shape: LlamaShape, reading: ReadOptions) -> Iterator[ReadTensors]:
    problems = Problems()
    config = parse_config(read_fields(folder), problems)
    with open_safetensors(folder / WEIGHTS_NAME, readable=FACTORS) as weights:
        names = sort_names(weights.names)
        check_filled(config, weights)
        stored = sort_tensors(config, names, problems)
        check_treatable(config, reading, problems)
        dropped = check_replaced(weights, names, config, reading.weights, problems, shape=shape)
        problems.refuse_any("The adapter")
        _check_invocation(config, shape)
        forms = {target: form_of(config, names.spelled(target.hf_path)) for target in stored}
        check_shapes(weights, stored, forms, shape)
        without = _without_tensors(config, stored, shape, names)
        paths = {target: names.spelled(target.hf_path) for target in stored}
        factors = scales(config, {paths[t]: weights.tensors[s.a].shape[0] for t, s in stored.items()})

        def pair(target: Target) -> LoraPair:
            width, scale = target.module.in_features(shape), factors[paths[target]]
            return _pair(weights, stored[target], forms[target], scale, width)

        pairs = LazyMapping([target for target, parts in stored.items() if weights.tensors[parts.a].shape[0]], pair)
        rows = read_token_rows(config, weights, names, shape)
        yield ReadTensors(config, pairs, rows, dropped, without, _treatment(weights.metadata))


def _pair(weights: SafetensorsFile, stored: Stored, form: Form, scale: float, width: int) -> LoraPair:
    a, b = form.plain_a(weights.read_f32(stored.a)), form.plain_b(weights.read_f32(stored.b))
    return LoraPair(
        a=a if stored.factors is None else scaled_rows(a, weights.read_f32(stored.factors)),
        b=b,
        scale=scale * form.gain(width),
        magnitude=None if stored.magnitude is None else weights.read_f32(stored.magnitude).reshape(-1),
        bias=None if stored.bias is None else weights.read_f32(stored.bias),
    )


def _check_weights(reading: ReadOptions, shape: LlamaShape) -> None:
    if reading.weights is not None and reading.weights.llama != shape:
        message = f"The weights given are of another base: {reading.weights.llama}, where {shape} is asked for."
        raise AdapterIncompatible("base_mismatch", message, "Give the weights of the base the adapter is added for.")


def _check_invocation(config: PeftConfig, shape: LlamaShape) -> None:
    if config.invocation and (highest := max(config.invocation)) >= shape.vocab:
        message = f"The adapter's invocation has the token {highest}; this base has {shape.vocab} tokens."
        remedy = "It was made for another base: choose that base (edgelora base ls)."
        raise AdapterIncompatible("adapter_invocation", message, remedy, param="alora_invocation_tokens")


def _without_tensors(
    config: PeftConfig, stored: Iterable[Target], shape: LlamaShape, names: Names
) -> tuple[Target, ...]:
    """Return the selected modules that have no tensors: PEFT leaves them as they are initialised, without an
    effect.

    Raises AdapterCorrupt for tensors that are not selected, which PEFT drops, and AdapterIncompatible where an
    initialisation has taken something out of the base, so that a module without tensors is not the base's.
    """
    everything = [Target(layer, module) for layer in range(shape.layers) for module in LINEAR_MODULES]
    everything += [Target(None, module) for module in OUTER_MODULES]
    chosen = selected(config, everything, spelled=names.spelled)
    if chosen is None:
        return ()
    extra = [target.hf_path for target in stored if target not in chosen]
    if extra:
        raise AdapterCorrupt(
            "adapter_modules",
            f"{WEIGHTS_NAME} has tensors for {extra[0]}{_more(extra)}, which {CONFIG_NAME} does not select.",
            "The two files do not belong together, or one was changed: save the adapter again.",
            param=extra[0],
        )
    lacking = selection.without_tensors([target for target in everything if target in chosen], set(stored))
    if lacking and (config.kasa or config.initialisation is not None):
        names_of = [target.hf_path for target in lacking]
        raise AdapterIncompatible(
            "adapter_modules",
            f"{CONFIG_NAME} selects {names_of[0]}{_more(names_of)} of this base, but {WEIGHTS_NAME} lacks its tensors.",
            "The adapter was made for a base with other layers, or its file is incomplete.",
            param=names_of[0],
        )
    return lacking


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _treatment(metadata: Mapping[str, str]) -> str:
    """Return the treatment noted in a file's metadata, a line of plain text or nothing: the file's origin is
    unknown."""
    text = metadata.get("edgelora.treatment", "")
    return text if text.isascii() and text.isprintable() and len(text) <= _LONGEST_NOTE else ""


def _notes(config: PeftConfig, tensors: ReadTensors, doubt: float) -> dict[str, str]:
    """Return notes for people on everything beyond reading plain factors."""
    taken = "KaSA" if config.kasa else config.initialisation
    dropped, without = tensors.dropped, selection.note(tensors.without)
    own = {
        tensors.treatment: bool(tensors.treatment),
        "AdaLoRA's singular values multiplied in": config.adalora is not None,
        "block-diagonal factors filled up with zeros": config.blocks is not None,
        "QALoRA's groups of inputs spread out; it was trained on a GPTQ base": config.pool > 1,
        f"what {taken} took out of the base is in the factors": taken is not None,
        f"computed anew from the base's weights, uncertain by {doubt:.0e} of the weight": doubt > 0,
        f"left out, for they are the base's own: {', '.join(dropped)}": bool(dropped),
        without: bool(without),
    }
    notes = {"treatment": "; ".join(note for note, done in own.items() if done)} if any(own.values()) else {}
    return notes | ({BESIDE: "true"} if taken is not None or dropped else {})


def _facts(config: PeftConfig) -> dict[str, str]:
    modules = config.target_modules
    listed = modules if isinstance(modules, str) else ",".join(sorted(modules)) if modules else "unknown"
    return {
        "rank": str(config.rank),
        "alpha": f"{config.alpha:g}",
        "target_modules": listed,
        "use_rslora": "true" if config.use_rslora else "false",
        "peft_version": config.peft_version or "unknown",
    } | ({"base_class": config.base_class} if config.base_class else {})
