"""The base as GGUF computes what Hugging Face computes; what it cannot express is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize
from numpy.typing import NDArray

from edgelora_converters.base_gguf import write_base_gguf
from edgelora_models import builtin
from edgelora_models.errors import BaseError

RELATIVE = 2e-5
TOKENS = 150


@pytest.fixture(scope="module")
def f32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "base.gguf"
    write_base_gguf(builtin.base_hf(), path, quantization="F32")
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return Path(shutil.copytree(builtin.base_hf(), tmp_path / "base"))


def edit(path: Path, **changes: object) -> None:
    """Change keys of a JSON file; None removes one."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


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
    assert list(out.iterdir()) == []


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
