"""Runners: ways to run a base, with or without an adapter, behind one method: `answer(questions)`.

This is the seam of `evaluate.py`. PEFT is the original; everything else goes through edgelora's own converters.
"""

from pathlib import Path
from typing import Protocol

import mlx.core as mx
import mlx.nn as nn
import torch
from chat import ChatEncoder
from mlx_lm.generate import generate_step
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model
from peft import PeftModel
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from edgelora.core.config import read_settings
from edgelora.core.sampling_params import SamplingParams
from edgelora.runtime.service import Service
from edgelora.store.library import open_library
from edgelora.text.prompt import Message
from edgelora_converters.convert.convert import convert
from edgelora_models.identity import identify_folder

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


def open_service(base_file: Path, home: Path) -> Service:
    """edgelora in a home of its own, over a GGUF base; the built-in adapters are installed there by its converter."""
    settings = read_settings({"EDGELORA_HOME": str(home), "EDGELORA_OFFLINE": "1", "EDGELORA_CONTEXT": "512"})
    name = base_file.stem.lower()
    open_library(settings).bases.add(base_file, name)
    return Service.open(settings, base=name)


class EngineRunner:
    """edgelora itself, from the PEFT folder on: store, converter, engine, eight questions in a batch."""

    def __init__(self, service: Service, adapter: Path | None) -> None:
        self._service = service
        self._adapters = service.compose(adapter.name) if adapter else ()

    def answer(self, questions: list[str]) -> list[str]:
        return [text for at in range(0, len(questions), 50) for text in self._batch(questions[at : at + 50])]

    def _batch(self, questions: list[str]) -> list[str]:
        greedy = SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS)
        chats = [[Message("user", question)] for question in questions]
        streams = [self._service.chat(chat, adapters=self._adapters, sampling=greedy) for chat in chats]
        return [stream.text() for stream in streams]


class MlxRunner:
    """mlx-lm on the Hugging Face folder, in f32, or quantized to `bits` in memory."""

    def __init__(self, base: Path, adapter: Path | None, scratch: Path, *, bits: int | None = None) -> None:
        self._prompts = Prompts(base)
        self._model, _ = load_model(base)
        self._model.set_dtype(mx.float32)
        if bits:
            nn.quantize(self._model, group_size=64, bits=bits)
        if adapter:
            load_adapters(self._model, str(converted_to_mlx(adapter, base, scratch)))
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


def converted_to_mlx(adapter: Path, base: Path, scratch: Path) -> Path:
    """The adapter in mlx-lm's form, by edgelora's converter; made once."""
    folder = scratch / adapter.name
    if not folder.exists():
        scratch.mkdir(exist_ok=True)
        convert(adapter, folder, to="mlx", base=identify_folder(base).fingerprint)
    return folder
