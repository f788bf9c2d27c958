"""Every way in which converters of adapters are known to go wrong is found: by the gate, or where the reader itself is
wrong, by the logits of the written file beside those the adapter's own formula gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgelora_converters.convert import convert as convert_module
from edgelora_converters.convert.convert import Format, convert, write_verified
from edgelora_converters.convert.source import read_source
from edgelora_converters.errors import ConversionFailed
from edgelora_converters.gguf import writer as gguf_writer
from edgelora_converters.lora.adapter import LoraAdapter, Target, TokenRows
from edgelora_converters.lora.dora import with_row_scales
from edgelora_converters.lora.token_rows import with_token_pairs
from edgelora_converters.mapped import writer as mapped_writer
from edgelora_converters.mlx import writer as mlx_writer
from edgelora_converters.oracle.llama import NumpyLlama, deltas_of
from edgelora_converters.peft import reader as peft_reader
from edgelora_converters.peft import target_rules
from edgelora_converters.peft.read_options import PLAIN, ReadOptions
from edgelora_models.errors import AdapterError
from edgelora_models.fingerprint import BaseFingerprint
from edgelora_models.modules import EMBEDDING
from tests.support.adapters import write_peft
from tests.support.bases import tiny_weights
from tests.support.lora import GQA, delta, dora_adapter, every_target, random_adapter
from tests.support.oracles import TOKENS, deltas, tiny_oracle
from tests.support.variants import plain, product, save
from tests.support.weights import tiny_base

LIMIT = 1e-8
"""KL in nats that a float32 adapter on a float32 base may be away."""
BASE = BaseFingerprint("llama", GQA, vocabulary="a" * 64, template="b" * 64)
Weights = dict[str, NDArray[Any]]


def kl(wanted: NDArray[Any], found: NDArray[Any]) -> float:
    """Largest KL(wanted || found) of any position."""
    logs = [x - x.max(-1, keepdims=True) for x in (wanted, found)]
    p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in logs)
    return float((np.exp(p) * (p - q)).sum(-1).max())


def merged(changes: Mapping[str, NDArray[Any]], *, seed: int = 1) -> Weights:
    """The tiny base's weights with what is added to some of them."""
    weights = {name: values.astype(np.float64) for name, values in tiny_weights(GQA, seed=seed).items()}
    return weights | {f"{path}.weight": weights[f"{path}.weight"] + change for path, change in changes.items()}


def away(source: Path, out: Path, wanted: Weights, *, to: Format = "gguf", reading: ReadOptions = PLAIN) -> float:
    """Convert, read the written file as an adapter, and hold its logits against those of the `wanted` weights."""
    convert(source, out, to=to, base=BASE, reading=reading)
    oracle = tiny_oracle(GQA, seed=1)
    truth = NumpyLlama(wanted, oracle.config, dtype="float64").logits(TOKENS)
    return kl(truth, oracle.logits(TOKENS, deltas(read_source(out, GQA))))


def patterned(folder: Path, *, rslora: bool = False, patterns: bool = False) -> Weights:
    """A folder with rsLoRA or an alpha of its own for v_proj; and the base merged with it by PEFT's formula."""
    tensors = plain(GQA, rank=4)
    pattern = {"v_proj": 64} if patterns else {}
    save(folder, tensors, use_rslora=rslora, alpha_pattern=pattern)
    root = math.sqrt(4) if rslora else 4
    alphas = {t: 64 if patterns and t.module.short == "v_proj" else 8 for t in every_target(GQA)}
    return merged({t.hf_path: product(tensors, t.hf_path, scale=alphas[t] / root) for t in every_target(GQA)})


Mutate = Callable[[pytest.MonkeyPatch], None]


def no_root(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(target_rules, "_scale", lambda config, rank, alpha: alpha / rank)


def global_alpha(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(target_rules, "_scale", lambda config, rank, alpha: config.alpha / rank)


@pytest.mark.parametrize(
    ("options", "mutate"), [({"rslora": True}, no_root), ({"patterns": True}, global_alpha)], ids=["rslora", "alpha"]
)
@pytest.mark.parametrize("to", ["gguf", "mapped", "mlx"])
def test_scales_read_wrongly(
    tmp_path: Path, to: Format, options: Any, mutate: Mutate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """alpha / r for rsLoRA, one alpha where a pattern has another: far from the formula the sound reader meets."""
    wanted = patterned(tmp_path / "peft", **options)
    assert away(tmp_path / "peft", tmp_path / "sound", wanted, to=to) < LIMIT
    mutate(monkeypatch)
    assert away(tmp_path / "peft", tmp_path / "wrong", wanted, to=to) > 0.01


@pytest.mark.parametrize(("to", "writer"), [("gguf", gguf_writer), ("mapped", mapped_writer)])
def test_rows_left_in_their_order(tmp_path: Path, to: Format, writer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """q and k without their permutation: the gate finds it, and nothing is published."""
    monkeypatch.setattr(writer, "interleave", lambda rows, heads: rows)
    with pytest.raises(ConversionFailed, match="_proj"):
        convert(write_peft(tmp_path / "peft", GQA), tmp_path / "out", to=to, base=BASE)
    assert not (tmp_path / "out").exists()


def pissa(folder: Path) -> Weights:
    """PiSSA: trained factors beside the base less its principal components; and the whole with the adapter in it."""
    tensors = plain(GQA, rank=4)
    save(folder, tensors, init_lora_weights="pissa")
    changes = {}
    for target in every_target(GQA):
        u, s, vh = np.linalg.svd(tiny_weights(GQA, seed=1)[f"{target.hf_path}.weight"].astype(np.float64))
        changes[target.hf_path] = product(tensors, target.hf_path, scale=2.0) - (u[:, :4] * s[:4]) @ vh[:4]
    return merged(changes)


def test_another_base_for_pissa(tmp_path: Path) -> None:
    """What training took out is computed from the base: from another base of the same shape it is something else."""
    wanted = pissa(tmp_path / "peft")
    sound, wrong = (ReadOptions(weights=tiny_base(GQA, seed=seed), allow_approximate=True) for seed in (1, 2))
    assert away(tmp_path / "peft", tmp_path / "sound", wanted, reading=sound) < 1e-6
    assert away(tmp_path / "peft", tmp_path / "wrong", wanted, reading=wrong) > 0.01
    with pytest.raises(AdapterError):
        convert(tmp_path / "peft", tmp_path / "none", to="gguf", base=BASE)


def test_a_norm_that_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trained norm in the file: refused; a reader that lets it fall is far from the base with that norm."""
    tensors, name = plain(GQA, rank=4), "model.norm.weight"
    norm = tiny_weights(GQA, seed=1)[name] * np.linspace(0.5, 1.5, GQA.hidden)
    save(tmp_path / "peft", tensors | {name: norm}, modules_to_save=["norm"])
    wanted = merged({t.hf_path: product(tensors, t.hf_path, scale=2.0) for t in every_target(GQA)}) | {name: norm}
    reading = ReadOptions(weights=tiny_base(GQA, seed=1))
    with pytest.raises(AdapterError):
        convert(tmp_path / "peft", tmp_path / "out", to="gguf", base=BASE, reading=reading)
    monkeypatch.setattr(peft_reader, "check_replaced", lambda *_, **__: [])
    assert away(tmp_path / "peft", tmp_path / "out", wanted, reading=reading) > 0.01


def oracle_logits(adapter: LoraAdapter) -> NDArray[Any]:
    return tiny_oracle(GQA, seed=1).logits(TOKENS, deltas_of(adapter))


def truth(weights: Weights) -> NDArray[Any]:
    return NumpyLlama(weights, tiny_oracle(GQA, seed=1).config, dtype="float64").logits(TOKENS)


def without_magnitudes(adapter: LoraAdapter) -> LoraAdapter:
    pairs = {target: replace(pair, magnitude=None) for target, pair in adapter.pairs.items()}
    return replace(adapter, pairs=pairs, row_scales={})


def as_peft_has_it(adapter: LoraAdapter) -> Weights:
    """DoRA by its definition: each row of the adapted weight at its magnitude's length."""
    weights = merged({target.hf_path: delta(pair) for target, pair in adapter.pairs.items()})
    for target, pair in adapter.pairs.items():
        name = f"{target.hf_path}.weight"
        norms = np.linalg.norm(weights[name], axis=1)
        weights[name] = weights[name] * (np.asarray(pair.magnitude, np.float64) / norms)[:, None]
    return weights


@pytest.mark.parametrize(("to", "module"), [("mapped", mapped_writer), ("mlx", mlx_writer)])
def test_a_magnitude_that_is_dropped(tmp_path: Path, to: Format, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the writer: the gate finds it. By the reader: what is left is far from DoRA by its definition."""
    adapter = with_row_scales(dora_adapter(GQA), tiny_base(GQA, seed=1))
    assert kl(truth(as_peft_has_it(adapter)), oracle_logits(adapter)) < 1e-6
    assert kl(truth(as_peft_has_it(adapter)), oracle_logits(without_magnitudes(adapter))) > 0.01
    write_verified(adapter, tmp_path / "sound", to=to, base=BASE)

    def dropping(adapter: LoraAdapter, *args: Any, **options: Any) -> None:
        module.write(without_magnitudes(adapter), *args, **options)

    monkeypatch.setitem(convert_module._WRITERS, to, dropping)
    with pytest.raises(ConversionFailed, match=r"magnitude|differs|row"):
        write_verified(adapter, tmp_path / "wrong", to=to, base=BASE)
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize(("to", "module"), [("mapped", mapped_writer), ("gguf", gguf_writer), ("mlx", mlx_writer)])
def test_token_rows_that_are_dropped(tmp_path: Path, to: Format, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the writer: the gate misses a module. By the reader: far from the base that has the new rows."""
    rows = np.random.default_rng(3).standard_normal((2, GQA.hidden)).astype(np.float32)
    tokens = (TOKENS[1], TOKENS[5])
    embedding = Target(None, EMBEDDING)
    adapter = replace(random_adapter(GQA), token_rows={embedding: TokenRows(tokens, rows)})
    completed = with_token_pairs(adapter, tiny_base(GQA, seed=1))
    wanted = merged({target.hf_path: delta(pair) for target, pair in adapter.pairs.items()})
    wanted["model.embed_tokens.weight"][list(tokens)] = rows
    assert kl(truth(wanted), oracle_logits(completed)) < 1e-6
    assert kl(truth(wanted), oracle_logits(adapter)) > 0.01
    write_verified(completed, tmp_path / "sound", to=to, base=BASE)

    def dropping(adapter: LoraAdapter, *args: Any, **options: Any) -> None:
        kept = {target: pair for target, pair in adapter.pairs.items() if target != embedding}
        module.write(replace(adapter, pairs=kept), *args, **options)

    monkeypatch.setitem(convert_module._WRITERS, to, dropping)
    with pytest.raises(ConversionFailed, match="embed_tokens"):
        write_verified(completed, tmp_path / "wrong", to=to, base=BASE)
