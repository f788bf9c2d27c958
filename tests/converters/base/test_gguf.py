"""The base as GGUF computes what Hugging Face computes; what it cannot express is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize
from numpy.typing import NDArray

from edgelora_converters.base.gguf import write_base_gguf
from edgelora_converters.base.plan import Quantization
from edgelora_converters.oracle.open import load_gguf
from edgelora_models import builtin
from edgelora_models.errors import BaseError
from edgelora_models.shape import LlamaShape
from tests.support.bases import ROPE_SCALING, tiny_weights
from tests.support.checkpoints import VOCAB, edit, left_behind, write_checkpoint
from tests.support.lora import GQA, WIDE_HEADS
from tests.support.native import native_logits, native_model
from tests.support.oracles import TOKENS as ORACLE_TOKENS
from tests.support.oracles import distance, tiny_oracle

RELATIVE = 2e-5
TOKENS = 150
MANY_QUERIES = LlamaShape(layers=2, hidden=64, heads=8, kv_heads=1, head_dim=8, ffn=160, vocab=VOCAB, tied=True)
SHAPES = pytest.mark.parametrize(
    "shape",
    [replace(GQA, vocab=VOCAB), replace(WIDE_HEADS, vocab=VOCAB), replace(GQA, kv_heads=4, vocab=VOCAB), MANY_QUERIES],
    ids=["gqa", "wide-heads-tied", "no-sharing", "one-kv-head-tied"],
)
ROPES: dict[str, dict[str, Any]] = {
    "llama3": {},
    "new-keys": {
        "rope_theta": None,
        "rope_scaling": None,
        "rope_parameters": {**ROPE_SCALING, "rope_theta": 5e5},
    },
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 3.0}},
    "plain": {"rope_scaling": None},
}


@pytest.fixture(scope="module")
def f32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "base.gguf"
    write_base_gguf(builtin.base_hf(), path, quantization="F32")
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return Path(shutil.copytree(builtin.base_hf(), tmp_path / "base"))


def logits_of_llama_cpp(path: Path, ids: list[int]) -> NDArray[np.float32]:
    """[tokens, vocab], with f32 KV and without flash attention."""
    llama = llama_cpp.Llama(
        str(path), n_ctx=256, n_batch=256, logits_all=True, flash_attn=False, verbose=False,
        type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32,
    )  # fmt: skip
    llama.eval(ids)
    scores: NDArray[np.float32] = np.array(llama.scores[: len(ids)], np.float32)
    llama.close()
    return scores


@SHAPES
def test_llama_cpp_agrees_with_the_oracle(tmp_path: Path, shape: LlamaShape) -> None:
    """Every logit of the converted float32 file is within 2e-5 of the numpy Llama on the checkpoint's own weights."""
    folder = write_checkpoint(tmp_path / "base", shape, seed=1)
    write_base_gguf(folder, tmp_path / "base.gguf", quantization="F32")
    with native_model(tmp_path / "base.gguf") as model:
        native = native_logits(model, ORACLE_TOKENS)
    wanted = tiny_oracle(shape, seed=1).logits(ORACLE_TOKENS)
    assert distance(native, wanted) < RELATIVE
    assert distance(load_gguf(tmp_path / "base.gguf", dtype="float64").logits(ORACLE_TOKENS), wanted) < 1e-6


@pytest.mark.torch
@SHAPES
@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.filterwarnings("default")
def test_every_shape_and_rope_agrees_with_hugging_face(tmp_path: Path, shape: LlamaShape, rope: str) -> None:
    """Heads that share keys, wide heads, tied and untied, every rope: transformers' logits in float32."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folder = write_checkpoint(tmp_path / "base", shape, seed=2, config=ROPES[rope])
    write_base_gguf(folder, tmp_path / "base.gguf", quantization="F32")
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        wanted = model(torch.tensor([ORACLE_TOKENS])).logits[0].numpy()
    with native_model(tmp_path / "base.gguf") as native:
        found = native_logits(native, ORACLE_TOKENS)
    assert distance(found, wanted) < RELATIVE
    assert distance(load_gguf(tmp_path / "base.gguf").logits(ORACLE_TOKENS), wanted) < RELATIVE


@pytest.mark.torch
@pytest.mark.filterwarnings("default")
def test_llama_cpp_agrees_with_hugging_face(f32: Path) -> None:
    """Logits of the F32 file within a relative 2e-5 of transformers in f32, far enough for rope scaling to matter."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    ids = np.random.default_rng(0).integers(0, 2000, TOKENS).tolist()
    model = transformers.LlamaForCausalLM.from_pretrained(builtin.base_hf(), dtype=torch.float32)
    with torch.inference_mode():
        wanted = model(torch.tensor([ids])).logits[0].numpy()
    found = logits_of_llama_cpp(f32, ids)
    assert np.abs(found - wanted).max() <= RELATIVE * np.abs(wanted).max()


def test_the_same_folder_gives_the_same_bytes(f32: Path, tmp_path: Path) -> None:
    """So that hashes of conversions are stable."""
    write_base_gguf(builtin.base_hf(), tmp_path / "again.gguf", quantization="F32")
    assert (tmp_path / "again.gguf").read_bytes() == f32.read_bytes()


def test_the_shipped_base_is_what_the_converter_writes(tmp_path: Path) -> None:
    """The GGUF and the Hugging Face folder are one model."""
    write_base_gguf(builtin.base_hf(), tmp_path / "base.gguf", quantization="Q8_0")
    assert (tmp_path / "base.gguf").read_bytes() == builtin.base_gguf().read_bytes()


@pytest.mark.parametrize("quantization", ["F16", "Q8_0"])
def test_quantized_matrices_are_near_and_norms_exact(f32: Path, tmp_path: Path, quantization: str) -> None:
    """Matrices have the type asked for, everything else stays f32."""
    write_base_gguf(builtin.base_hf(), tmp_path / "base.gguf", quantization=quantization)  # type: ignore[arg-type]
    exact = {tensor.name: np.array(tensor.data) for tensor in GGUFReader(f32).tensors}
    for tensor in GGUFReader(tmp_path / "base.gguf").tensors:
        if exact[tensor.name].ndim == 1:
            assert tensor.tensor_type == GGMLQuantizationType.F32
            assert np.array_equal(tensor.data, exact[tensor.name])
        else:
            assert tensor.tensor_type == GGMLQuantizationType[quantization]
            values = dequantize(np.array(tensor.data), tensor.tensor_type)
            assert np.abs(values - exact[tensor.name]).max() <= 0.005 * np.abs(exact[tensor.name]).max()


def test_nothing_is_left_behind_by_a_refusal(source: Path, tmp_path: Path) -> None:
    """A folder that cannot be written leaves neither the file nor a temporary one."""
    out = tmp_path / "out"
    out.mkdir()
    edit(source / "config.json", num_hidden_layers=7)
    with pytest.raises(BaseError, match=r"model\.layers\.6"):
        write_base_gguf(source, out / "base.gguf", quantization="F32")
    assert left_behind(out) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "qwen2"}, "qwen2"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": 128}, "embed_tokens"),
        ({"vocab_size": 2000}, "2000, 256"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
    ],
)
def test_a_base_that_cannot_be_expressed_is_refused(source: Path, changes: dict[str, object], words: str) -> None:
    """The error names the key or tensor at fault."""
    edit(source / "config.json", **changes)
    with pytest.raises(BaseError, match=words):
        write_base_gguf(source, source / "base.gguf", quantization="F32")


def test_another_split_pattern_is_refused(source: Path) -> None:
    """llama.cpp would cut the text differently without any error."""
    path = source / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\s+"
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(BaseError, match="Llama 3"):
        write_base_gguf(source, source / "base.gguf", quantization="F32")


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
def test_values_as_stored_are_exact(tmp_path: Path, dtype: str) -> None:
    """A type the checkpoint is stored in takes its values bit for bit, and so does float32."""
    folder = write_checkpoint(tmp_path / "base", replace(GQA, vocab=VOCAB), dtype=dtype)
    kinds: list[Quantization] = ["F32", "source", dtype]  # type: ignore[list-item]
    found = []
    for kind in kinds:
        write_base_gguf(folder, tmp_path / "base.gguf", quantization=kind)
        found.append({name: tensor_values(tensor) for name, tensor in tensors(tmp_path / "base.gguf").items()})
    for name, values in found[0].items():
        assert all(np.array_equal(values, other[name]) for other in found[1:]), name
    assert {tensor.tensor_type.name for tensor in tensors(tmp_path / "base.gguf").values() if tensor.data.ndim > 1} == {
        dtype
    }


def tensors(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in GGUFReader(path).tensors}


def tensor_values(tensor: Any) -> NDArray[np.float32]:
    values: NDArray[np.float32] = dequantize(np.array(tensor.data), tensor.tensor_type)
    return values


def test_blocks_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes do not depend on how many rows are in memory at once, in rotary order too."""
    folder = write_checkpoint(tmp_path / "base", replace(GQA, vocab=VOCAB))
    write_base_gguf(folder, tmp_path / "whole.gguf", quantization="Q8_0")
    monkeypatch.setattr("edgelora_converters.base.gguf.BLOCK_BYTES", 1 << 10)
    write_base_gguf(folder, tmp_path / "blocks.gguf", quantization="Q8_0")
    assert (tmp_path / "blocks.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()


def test_the_head_keeps_more_bits(tmp_path: Path) -> None:
    """Q4_0 leaves the output head, or the embedding that is also the head, in Q8_0."""
    for shape, head in ((GQA, "output.weight"), (WIDE_HEADS, "token_embd.weight")):
        folder = write_checkpoint(tmp_path / head, replace(shape, vocab=VOCAB))
        write_base_gguf(folder, tmp_path / "base.gguf", quantization="Q4_0")
        kinds = {name: tensor.tensor_type.name for name, tensor in tensors(tmp_path / "base.gguf").items()}
        assert kinds[head] == "Q8_0"
        assert kinds["blk.0.ffn_up.weight"] == "Q4_0"


def test_a_weight_too_large(tmp_path: Path) -> None:
    """What would become infinity is refused by name."""
    shape = replace(GQA, vocab=VOCAB)
    weights = tiny_weights(shape, seed=0)
    weights["model.layers.1.mlp.up_proj.weight"][3, 3] = 1e5
    folder = write_checkpoint(tmp_path / "base", shape, weights=weights)
    with pytest.raises(BaseError, match=r"layers\.1\.mlp\.up_proj") as caught:
        write_base_gguf(folder, tmp_path / "base.gguf", quantization="F16")
    assert caught.value.code == "base_overflow"
    write_base_gguf(folder, tmp_path / "base.gguf", quantization="BF16")
