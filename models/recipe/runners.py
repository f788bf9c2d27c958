"""Runners: ways to run a base, with or without an adapter, behind one method: `answer(questions)`.

This is the seam of `evaluate.py`. Each class converts the PEFT folder in its own, smallest way.
"""

import ctypes
import json
from pathlib import Path
from typing import Any, Protocol

import llama_cpp
import mlx.core as mx
import mlx.nn as nn
import numpy as np
import torch
from chat import ChatEncoder
from mlx_lm.generate import generate_step
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model
from peft import PeftModel
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from edgelora_converters import gguf
from edgelora_converters.lora import LoraAdapter, LoraPair, Target
from edgelora_models.modules import LINEAR_MODULES
from edgelora_models.shape import LlamaShape

MAX_TOKENS = 80


class Runner(Protocol):
    """Answers each question on its own, greedily, without a system prompt."""

    def answer(self, questions: list[str]) -> list[str]:
        """One answer per question, in order."""
        ...


class Prompts:
    """The chat format of the base in `folder`: questions to ids and ids to answers."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._encoder = ChatEncoder(self.tokenizer)
        self.eot = self._encoder.eot

    def ids(self, question: str) -> list[int]:
        return self._encoder.prompt(question)

    def text(self, ids: list[int]) -> str:
        """The answer, up to its end token."""
        end = ids.index(self.eot) if self.eot in ids else len(ids)
        return str(self.tokenizer.decode(ids[:end]))


class TorchRunner:
    """PEFT's own arithmetic in f32: what the adapter was trained to be."""

    def __init__(self, base: Path, adapter: Path | None) -> None:
        self._prompts = Prompts(base)
        self._model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
        if adapter:
            self._model = PeftModel.from_pretrained(self._model, adapter).to(torch.float32)
        self._model.eval()

    def answer(self, questions: list[str]) -> list[str]:
        return [text for at in range(0, len(questions), 50) for text in self._batch(questions[at : at + 50])]

    def _batch(self, questions: list[str]) -> list[str]:
        prompts = [self._prompts.ids(question) for question in questions]
        longest = max(map(len, prompts))
        pad = self._model.config.pad_token_id
        ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = (ids != pad).long()
        with torch.inference_mode():
            out = self._model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=MAX_TOKENS)
        return [self._prompts.text(row) for row in out[:, longest:].tolist()]


class LlamaCppRunner:
    """llama.cpp with its own LoRA path, over a GGUF base."""

    def __init__(self, base: Path, base_file: Path, adapter: Path | None, scratch: Path) -> None:
        self._prompts = Prompts(base)
        self._llama = llama_cpp.Llama(str(base_file), n_ctx=512, n_threads=2, verbose=False)
        self._handle = self._attach(adapter, base, scratch) if adapter else None

    def answer(self, questions: list[str]) -> list[str]:
        return [self._prompts.text(self._greedy(self._prompts.ids(question))) for question in questions]

    def _greedy(self, prompt: list[int]) -> list[int]:
        self._llama.reset()
        self._llama.eval(prompt)
        ids: list[int] = []
        while len(ids) < MAX_TOKENS:
            row = llama_cpp.llama_get_logits_ith(self._llama.ctx, -1)
            ids.append(int(np.ctypeslib.as_array(row, (self._llama.n_vocab(),)).argmax()))
            if ids[-1] == self._prompts.eot:
                break
            self._llama.eval(ids[-1:])
        return ids

    def _attach(self, adapter: Path, base: Path, scratch: Path) -> Any:
        file = scratch / f"{adapter.name}.gguf"
        gguf.write(read_peft(adapter), base_shape(base), file, provenance={})
        handle = llama_cpp.llama_adapter_lora_init(self._llama.model, str(file).encode())
        adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(handle)
        if llama_cpp.llama_set_adapters_lora(self._llama.ctx, adapters, 1, (ctypes.c_float * 1)(1.0)):
            raise RuntimeError(f"llama.cpp did not take {file}")
        return handle


class MlxRunner:
    """mlx-lm on the Hugging Face folder, in f32, or quantized to `bits` in memory."""

    def __init__(self, base: Path, adapter: Path | None, scratch: Path, *, bits: int | None = None) -> None:
        self._prompts = Prompts(base)
        self._model, _ = load_model(base)
        self._model.set_dtype(mx.float32)
        if bits:
            nn.quantize(self._model, group_size=64, bits=bits)
        if adapter:
            load_adapters(self._model, str(write_mlx(read_peft(adapter), base_shape(base), scratch / adapter.name)))
        self._model.eval()

    def answer(self, questions: list[str]) -> list[str]:
        return [self._prompts.text(self._greedy(self._prompts.ids(question))) for question in questions]

    def _greedy(self, prompt: list[int]) -> list[int]:
        ids: list[int] = []
        for token, _ in generate_step(mx.array(prompt), self._model, max_tokens=MAX_TOKENS):
            ids.append(int(token))
            if ids[-1] == self._prompts.eot:
                break
        return ids


def read_peft(folder: Path) -> LoraAdapter:
    """A PEFT folder of this recipe as values."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    tensors = {name: value.float().numpy() for name, value in load_file(folder / "adapter_model.safetensors").items()}
    pairs = {}
    for layer in range(1 + max(int(name.split(".layers.")[1].split(".")[0]) for name in tensors)):
        for module in LINEAR_MODULES:
            prefix = f"base_model.model.{module.hf_path(layer)}.lora_"
            if f"{prefix}A.weight" in tensors:
                a, b = tensors[f"{prefix}A.weight"], tensors[f"{prefix}B.weight"]
                alpha = config["alpha_pattern"].get(module.short, config["lora_alpha"])
                scale = alpha / (len(a) ** 0.5 if config["use_rslora"] else len(a))
                pairs[Target(layer, module)] = LoraPair(a, b, scale)
    return LoraAdapter(pairs, source_digest="", base_model=None)


def base_shape(folder: Path) -> LlamaShape:
    """The shape of the base in a Hugging Face folder."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return LlamaShape(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
        ffn=config["intermediate_size"],
        vocab=config["vocab_size"],
        tied=config["tie_word_embeddings"],
    )


def write_mlx(adapter: LoraAdapter, shape: LlamaShape, folder: Path) -> Path:
    """The adapter in mlx-lm's form: folded scale, every module padded with zeros to the highest rank."""
    folder.mkdir(parents=True, exist_ok=True)
    rank, tensors = adapter.max_rank, {}
    for target, pair in adapter.pairs.items():
        more = rank - pair.rank
        tensors[f"{target.hf_path}.lora_a"] = mx.array(np.pad(pair.a, ((0, more), (0, 0))).T)
        tensors[f"{target.hf_path}.lora_b"] = mx.array(np.pad(pair.folded_b(), ((0, 0), (0, more))).T)
    mx.save_safetensors(str(folder / "adapters.safetensors"), tensors)
    keys = [target.hf_path for target in adapter.pairs]
    parameters = {"rank": rank, "scale": 1.0, "dropout": 0.0, "keys": keys}
    config = {"fine_tune_type": "lora", "num_layers": shape.layers, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
