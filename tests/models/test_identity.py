"""identity: one model has one fingerprint in every form, and what is no sound Llama base is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from edgelora_models import builtin
from edgelora_models.errors import BaseError, EdgeloraError
from edgelora_models.hf_config import parse_hf_config, read_shape
from edgelora_models.identity import BaseIdentity, identify_folder, identify_gguf
from edgelora_models.modules import LINEAR_MODULES
from edgelora_models.shape import LlamaShape
from tests.support.adapters import TINY, write_peft, write_safetensors
from tests.support.bases import (
    CHAT_TEMPLATE,
    CONTEXT_LENGTH,
    MIN_VOCAB,
    tiny_config,
    tiny_tokens,
    write_tiny_gguf,
)
from tests.support.fuzz import mutations

SHAPE = replace(TINY, vocab=MIN_VOCAB + 2)
SMALL = LlamaShape(layers=1, hidden=8, heads=2, kv_heads=1, head_dim=4, ffn=16, vocab=5, tied=False)


def write_folder(folder: Path, *, config: Mapping[str, Any] | None = None, tokenizer: Any = None) -> Path:
    """The base of write_tiny_gguf as a Hugging Face folder, its special tokens as added tokens."""
    folder.mkdir(parents=True)
    tokens = tiny_tokens(SHAPE.vocab)
    made = {
        "model": {"type": "BPE", "vocab": {token: n for n, token in enumerate(tokens[:256])}, "merges": []},
        "added_tokens": [{"id": n, "content": token} for n, token in enumerate(tokens) if n >= 256],
    }
    (folder / "config.json").write_text(json.dumps(tiny_config(SHAPE) | dict(config or {})))
    (folder / "tokenizer.json").write_text(json.dumps(made if tokenizer is None else tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE}))
    write_safetensors(folder / "model.safetensors", {"x": np.zeros((2, 2), np.float32)})
    return folder


def small_fields(**changes: Any) -> dict[str, Any]:
    """GGUF metadata of SMALL; None takes a key away."""
    fields: dict[str, Any] = {
        "llama.block_count": 1,
        "llama.context_length": 32,
        "llama.embedding_length": 8,
        "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": 1,
        "llama.feed_forward_length": 16,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
    }
    return {k: v for k, v in (fields | changes).items() if v is not None}


def small_tensors(**changes: Sequence[int] | None) -> dict[str, NDArray[np.float32]]:
    """Zero tensors of SMALL in numpy's order, by name with dots written as `__`; None takes one away."""
    shapes: dict[str, Any] = {
        "token_embd.weight": (5, 8),
        "output.weight": (5, 8),
        "output_norm.weight": (8,),
        "blk.0.attn_norm.weight": (8,),
        "blk.0.ffn_norm.weight": (8,),
    }
    for module in LINEAR_MODULES:
        shapes[module.gguf_path(0)] = (module.out_features(SMALL), module.in_features(SMALL))
    shapes |= {name.replace("__", "."): shape for name, shape in changes.items()}
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items() if shape is not None}


def write_small(
    path: Path,
    fields: Mapping[str, Any] | None = None,
    tensors: Mapping[str, NDArray[Any]] | None = None,
    *,
    architecture: str = "llama",
) -> Path:
    writer = gguf.GGUFWriter(str(path), architecture)
    for key, value in (small_fields() if fields is None else fields).items():
        kind = gguf.GGUFValueType.UINT32 if type(value) is int else gguf.GGUFValueType.get_type(value)
        writer.add_key_value(key, value, kind)
    for name, array in (small_tensors() if tensors is None else tensors).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def refused(path: Path) -> BaseError:
    with pytest.raises(BaseError) as caught:
        identify_folder(path) if path.is_dir() else identify_gguf(path)
    return caught.value


def test_the_built_in_base_has_one_fingerprint_in_both_forms() -> None:
    """The GGUF that is the default and the folder its adapters were trained on are the same base."""
    quantized, folder = identify_gguf(builtin.base_gguf()), identify_folder(builtin.base_hf())
    assert quantized.fingerprint == folder.fingerprint
    assert quantized.fingerprint.digest == folder.fingerprint.digest
    assert quantized.quantization == "Q8_0"
    assert quantized.chat_template == folder.chat_template
    assert quantized.context_length == folder.context_length
    assert quantized.nbytes == builtin.base_gguf().stat().st_size


def test_gguf_and_folder_of_a_tiny_base_agree(tmp_path: Path) -> None:
    """Shape, vocabulary and template, over all quantizations; the facts beside them."""
    folder = identify_folder(write_folder(tmp_path / "hf"))
    for quantization in ("F32", "Q8_0", "Q4_0"):
        path = write_tiny_gguf(tmp_path / "b.gguf", SHAPE, seed=1, quantization=quantization)
        identity = identify_gguf(path)
        assert identity.fingerprint == folder.fingerprint
        assert identity.quantization == quantization
        assert (identity.name, identity.context_length) == ("tiny", CONTEXT_LENGTH)
    assert folder.fingerprint.shape == SHAPE
    assert folder.chat_template == CHAT_TEMPLATE


def test_the_digests_are_the_documented_ones(tmp_path: Path) -> None:
    """Tokens in id order each followed by a zero byte; the template's text."""
    fingerprint = identify_folder(write_folder(tmp_path / "hf")).fingerprint
    tokens = b"".join(token.encode() + b"\0" for token in tiny_tokens(SHAPE.vocab))
    assert fingerprint.vocabulary == hashlib.sha256(tokens).hexdigest()
    assert fingerprint.template == hashlib.sha256(CHAT_TEMPLATE.encode()).hexdigest()


def test_other_bases_have_other_fingerprints(tmp_path: Path) -> None:
    """Another shape, token or template is another base."""
    digests = {identify_folder(write_folder(tmp_path / "0")).fingerprint.digest}
    digests.add(identify_folder(write_folder(tmp_path / "1", config={"tie_word_embeddings": True})).fingerprint.digest)
    template = write_folder(tmp_path / "2")
    (template / "chat_template.jinja").write_text("other")
    digests.add(identify_folder(template).fingerprint.digest)
    token = write_folder(tmp_path / "3")
    path = token / "tokenizer.json"
    path.write_text(path.read_text().replace("<|eot_id|>", "<|eot_ID|>"))
    digests.add(identify_folder(token).fingerprint.digest)
    assert len(digests) == 4


def test_bases_without_a_tokenizer_agree_too(tmp_path: Path) -> None:
    """Only the number of rows is known then, in both forms."""
    config = tiny_config(SMALL)
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    write_safetensors(tmp_path / "hf" / "model.safetensors", {"x": np.zeros((1,), np.float32)})
    fields = small_fields(**{"tokenizer.ggml.model": "none"})
    assert (
        identify_gguf(write_small(tmp_path / "s.gguf", fields)).fingerprint
        == identify_folder(tmp_path / "hf").fingerprint
    )


def test_template_is_picked_as_transformers_does(tmp_path: Path) -> None:
    """chat_template.jinja first, with plain line ends; else the one named default; else none."""
    folder = write_folder(tmp_path / "hf")
    (folder / "chat_template.jinja").write_bytes(b"a\r\nb")
    assert identify_folder(folder).chat_template == "a\nb"
    (folder / "chat_template.jinja").unlink()
    listed = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": listed}))
    assert identify_folder(folder).chat_template == "d"
    (folder / "tokenizer_config.json").unlink()
    assert identify_folder(folder).chat_template is None


def test_rows_without_a_token_are_padding(tmp_path: Path) -> None:
    """As the GGUF converters fill them."""
    full = {"model": {"vocab": {f"[PAD{n}]" if n > 9 else f"t{n}": n for n in range(SHAPE.vocab)}}}
    short = {"model": {"vocab": {f"t{n}": n for n in range(10)}}}
    one, two = (write_folder(tmp_path / str(i), tokenizer=t) for i, t in enumerate((full, short)))
    assert identify_folder(one).fingerprint == identify_folder(two).fingerprint


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"head_dim": None}, replace(SHAPE, head_dim=16)),
        ({"num_key_value_heads": None}, replace(SHAPE, kv_heads=4)),
        ({"tie_word_embeddings": True}, replace(SHAPE, tied=True)),
    ],
)
def test_config_defaults_are_llamas(tmp_path: Path, config: dict[str, Any], expected: LlamaShape) -> None:
    """head_dim is hidden / heads, key/value heads are heads, where they are left out."""
    assert read_shape(write_folder(tmp_path / "hf", config=config)) == expected


@pytest.mark.parametrize(
    ("fields", "quantization"),
    [
        ({"quantization": {"bits": 4, "group_size": 64}, "quantization_config": {"bits": 4}}, "4-bit, groups of 64"),
        ({"torch_dtype": "float16"}, "float16"),
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({}, "unknown"),
    ],
)
def test_quantization_of_folders(fields: dict[str, Any], quantization: str) -> None:
    """MLX says it in `quantization`; others say a dtype."""
    assert parse_hf_config(tiny_config(SHAPE) | fields).quantization == quantization


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "mistral"}, "'mistral', not 'llama'"),
        ({"model_type": None}, "not 'llama'"),
        ({"hidden_size": 0}, "hidden_size: 0"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"vocab_size": 1 << 40}, "vocab_size"),
        ({"num_key_value_heads": 3}, "4 heads cannot share 3"),
        ({"head_dim": 15}, "heads of 15 elements"),
        ({"max_position_embeddings": None}, "max_position_embeddings"),
        ({"intermediate_size": 1.5}, "intermediate_size: 1.5"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized by 'gptq'"),
    ],
)
def test_configs_that_are_no_plain_llama_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    """By what they say."""
    assert words in refused(write_folder(tmp_path / "hf", config=change)).what


@pytest.mark.parametrize(
    "tokenizer",
    [
        *([], {}, {"model": 3}, {"model": {"vocab": []}}, {"model": {"vocab": {"a": SHAPE.vocab}}}),
        *(
            {"model": {"vocab": {"a": -1}}},
            {"model": {"vocab": {"a": "0"}}},
            {"model": {"vocab": {}}, "added_tokens": [1]},
        ),
        {"model": {"vocab": {}}, "added_tokens": [{"id": 0}]},
    ],
)
def test_unsound_tokenizers_are_refused(tmp_path: Path, tokenizer: Any) -> None:
    """Ids outside the base's rows, or no vocabulary."""
    refused(write_folder(tmp_path / "hf", tokenizer=tokenizer))


def test_folders_that_are_no_base_are_explained(tmp_path: Path) -> None:
    """Nothing there, no weights, or an adapter."""
    assert refused(tmp_path).code == "file_missing"
    folder = write_folder(tmp_path / "hf")
    (folder / "model.safetensors").unlink()
    assert "safetensors" in refused(folder).what
    assert "edgelora add" in refused(write_peft(tmp_path / "adapter", TINY)).remedy


def test_a_sound_small_file_is_a_base(tmp_path: Path) -> None:
    """What the refusals below start from."""
    identity: BaseIdentity = identify_gguf(write_small(tmp_path / "s.gguf"))
    assert identity.fingerprint.shape == SMALL
    assert identity.quantization == "F32"
    tied = identify_gguf(write_small(tmp_path / "t.gguf", tensors=small_tensors(output__weight=None)))
    assert tied.fingerprint.shape == replace(SMALL, tied=True)


def test_an_adapter_file_is_no_base(tmp_path: Path) -> None:
    """The remedy names the verb for adapters."""
    error = refused(write_small(tmp_path / "a.gguf", {"general.type": "adapter", "adapter.type": "lora"}, {}))
    assert error.code == "base_is_adapter"
    assert "edgelora add" in error.remedy


@pytest.mark.parametrize(
    "change",
    [
        *({key: None} for key in small_fields() if key != "llama.attention.head_count_kv"),
        *({key: 0} for key in small_fields()),
        *({key: "text"} for key in small_fields()),
        {"llama.attention.head_count_kv": None},  # then 2 heads, which the tensors have not
        *({"llama.embedding_length": 16}, {"llama.block_count": 2}, {"llama.block_count": 100_000}),
        *({"llama.block_count": 1 << 31}, {"llama.attention.head_count": 1}, {"llama.attention.head_count": 8}),
        *({"llama.feed_forward_length": 8}, {"llama.vocab_size": 6}, {"llama.attention.key_length": 8}),
        *({"llama.attention.value_length": 2}, {"llama.expert_count": 8}, {"split.count": 2}),
        *({"llama.rope.dimension_count": 64}, {"llama.rope.dimension_count": 3}, {"llama.rope.freq_base": -1.0}),
        *({"llama.attention.head_count_kv": [1]}, {"llama.attention.layer_norm_rms_epsilon": float("nan")}),
        *({"tokenizer.ggml.model": "gpt2"}, {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a"] * 4}),
        {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a"] * 5, "tokenizer.ggml.token_type": [1] * 4},
        {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a"] * 5, "tokenizer.ggml.merges": [1]},
        {"tokenizer.chat_template": 3},
    ],
    ids=lambda change: " ".join(f"{k}={v}" for k, v in change.items())[:60],
)
def test_metadata_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    """Missing, of another type, or against the tensors: libllama never sees it."""
    refused(write_small(tmp_path / "s.gguf", small_fields(**change)))


@pytest.mark.parametrize("name", small_tensors())
def test_every_tensor_must_be_there_in_its_shape(tmp_path: Path, name: str) -> None:
    """Missing, transposed or misshapen tensors are refused by name (a missing head means a tied base)."""
    tensors = small_tensors()
    bad = dict(tensors) | {name: np.zeros((*tensors[name].shape, 3), np.float32)}
    assert refused(write_small(tmp_path / "bad.gguf", tensors=bad)).code == "base_corrupt"
    del tensors[name]
    if name != "output.weight":
        assert name in refused(write_small(tmp_path / "gone.gguf", tensors=tensors)).what


@pytest.mark.parametrize("name", ["blk.1.attn_q.weight", "blk.0.attn_q.bias", "blk.0.attn_qkv.weight", "other.weight"])
def test_tensors_a_llama_has_not_are_refused(tmp_path: Path, name: str) -> None:
    """An unknown tensor changes what the base computes, or stops llama.cpp."""
    error = refused(write_small(tmp_path / "s.gguf", tensors=small_tensors() | {name: np.zeros((8, 8), np.float32)}))
    assert repr(name) in error.what


@pytest.mark.parametrize(
    ("name", "dtype"), [("blk.0.attn_q.weight", "f8"), ("token_embd.weight", "i4"), ("output_norm.weight", "f2")]
)
def test_tensors_of_wrong_types_are_refused(tmp_path: Path, name: str, dtype: str) -> None:
    """Integers and F64 crash ggml; norms are F32."""
    tensors: dict[str, NDArray[Any]] = dict(small_tensors())
    tensors[name] = tensors[name].astype(dtype)
    assert "stored as" in refused(write_small(tmp_path / "s.gguf", tensors=tensors)).what


@pytest.mark.parametrize("architecture", ["mistral3", "qwen3", "clip"])
def test_other_architectures_are_refused(tmp_path: Path, architecture: str) -> None:
    """By name."""
    assert repr(architecture) in refused(write_small(tmp_path / "s.gguf", architecture=architecture)).what


def test_quantization_without_a_file_type_is_the_weights(tmp_path: Path) -> None:
    """The type of most bytes where general.file_type is missing; the file type where it is there."""
    halves = {n: t.astype(np.float16) if t.ndim == 2 else t for n, t in small_tensors().items()}
    assert identify_gguf(write_small(tmp_path / "a.gguf", tensors=halves)).quantization == "F16"
    stated = small_fields(**{"general.file_type": 15})
    assert identify_gguf(write_small(tmp_path / "b.gguf", stated, halves)).quantization == "Q4_K_M"


def test_mutated_folders_never_escape_the_error_tree(tmp_path: Path) -> None:
    """Damaged configs and tokenizers, and GGUF headers, are identified or raise an EdgeloraError."""
    folder = write_folder(
        tmp_path / "hf", tokenizer={"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1, "content": "b"}]}
    )
    gguf_file = write_small(tmp_path / "s.gguf", small_fields(**{"tokenizer.ggml.model": "none"}))
    refusals = 0
    for path in (folder / "config.json", folder / "tokenizer.json", folder / "tokenizer_config.json", gguf_file):
        good = path.read_bytes()
        for mutant in mutations(good, seed=6, count=70):
            path.write_bytes(mutant)
            try:
                identify_gguf(path) if path == gguf_file else identify_folder(folder)
            except EdgeloraError:
                refusals += 1
        path.write_bytes(good)
    assert 90 < refusals < 280
    shutil.rmtree(folder)
