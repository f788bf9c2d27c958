"""aLoRA through the converter: the invocation is read, checked, written where llama.cpp looks for it, and read back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp
import pytest

from edgelora_converters.convert.convert import convert
from edgelora_converters.convert.verify import verify_gguf
from edgelora_converters.errors import ConversionFailed
from edgelora_converters.gguf import adapter_reader as gguf_adapter_reader
from edgelora_converters.gguf import writer as gguf_writer
from edgelora_converters.mlx import writer as mlx_writer
from edgelora_converters.peft import reader as peft_reader
from edgelora_models.errors import AdapterIncompatible, AdapterUnsupported
from edgelora_models.fingerprint import BaseFingerprint
from tests.support.adapters import TINY, write_peft
from tests.support.bases import write_tiny_gguf
from tests.support.lora import GQA, random_adapter
from tests.support.native import native_model

INVOCATION = (7, 0, 255)


def alora(folder: Path, tokens: Any = INVOCATION, **config: Any) -> Path:
    fields = {"alora_invocation_tokens": tokens, "task_type": "CAUSAL_LM", **config}
    return write_peft(folder, TINY, rank=2, targets=["q_proj", "down_proj"], **fields)


def test_it_is_read(tmp_path: Path) -> None:
    """The ids as they stand; PEFT takes an empty list for a plain adapter."""
    assert peft_reader.read(alora(tmp_path / "a"), TINY).invocation == INVOCATION
    for name, nothing in (("b", []), ("c", None)):
        assert peft_reader.read(alora(tmp_path / name, nothing), TINY).invocation == ()


@pytest.mark.parametrize("tokens", [[1.0], [-1], ["a"], "text", [True], {"a": 1}, [[1]], 7, [0] * 5000])
def test_odd_invocations_are_refused(tmp_path: Path, tokens: Any) -> None:
    """What is no list of token numbers names the field."""
    with pytest.raises(AdapterUnsupported) as caught:
        peft_reader.read(alora(tmp_path / "a", tokens), TINY)
    assert caught.value.param == "alora_invocation_tokens"


@pytest.mark.parametrize("task", [None, "SEQ_CLS"])
def test_another_task_is_refused(tmp_path: Path, task: str | None) -> None:
    """PEFT looks for the invocation in causal language models alone: elsewhere the adapter would never act there."""
    with pytest.raises(AdapterUnsupported, match="never activates"):
        peft_reader.read(alora(tmp_path / "a", task_type=task), TINY)


def test_tokens_of_another_base_are_refused(tmp_path: Path) -> None:
    """A token that the base's vocabulary does not have."""
    with pytest.raises(AdapterIncompatible, match="the token 256"):
        peft_reader.read(alora(tmp_path / "a", [1, 256]), TINY)


def test_gguf_carries_it(tmp_path: Path) -> None:
    """From a PEFT folder to the file: read back, and found by llama.cpp under its own key."""
    base = BaseFingerprint("llama", TINY, vocabulary="", template="")
    convert(alora(tmp_path / "a"), tmp_path / "a.gguf", to="gguf", base=base)
    assert gguf_adapter_reader.read_invocation(tmp_path / "a.gguf") == INVOCATION
    gguf_writer.write(replace(random_adapter(GQA), invocation=INVOCATION), GQA, tmp_path / "b.gguf", provenance={})
    with native_model(write_tiny_gguf(tmp_path / "base.gguf", GQA, seed=1)) as model:
        adapter = llama_cpp.llama_adapter_lora_init(model, str(tmp_path / "b.gguf").encode())
        count = llama_cpp.llama_adapter_get_alora_n_invocation_tokens(adapter)
        assert tuple(llama_cpp.llama_adapter_get_alora_invocation_tokens(adapter)[:count]) == INVOCATION


def test_a_plain_adapter_has_none(tmp_path: Path) -> None:
    """No key, and so the bytes it always had."""
    gguf_writer.write(random_adapter(GQA), GQA, tmp_path / "a.gguf", provenance={})
    assert gguf_adapter_reader.read_invocation(tmp_path / "a.gguf") == ()
    assert gguf_writer.INVOCATION_KEY.encode() not in (tmp_path / "a.gguf").read_bytes()


@pytest.mark.parametrize(("written", "wanted"), [((), INVOCATION), (INVOCATION, ()), (INVOCATION, INVOCATION[:2])])
def test_the_gate_compares_it(tmp_path: Path, written: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """A file that would act elsewhere than the source is not published, however right its factors are."""
    adapter = random_adapter(GQA)
    gguf_writer.write(replace(adapter, invocation=written), GQA, tmp_path / "a.gguf", provenance={})
    with pytest.raises(ConversionFailed, match="invocation"):
        verify_gguf(tmp_path / "a.gguf", replace(adapter, invocation=wanted), GQA)


def test_mlx_is_refused(tmp_path: Path) -> None:
    """mlx-lm would apply it to every token, without a word."""
    with pytest.raises(AdapterUnsupported, match="aLoRA") as caught:
        mlx_writer.write(replace(random_adapter(GQA), invocation=INVOCATION), GQA, tmp_path / "a", provenance={})
    assert caught.value.code == "alora" and not (tmp_path / "a").exists()
