"""The adapters: LoRA trained with PEFT on the finished base, saved as PEFT saves them."""

import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from adapter_sets import AdapterSet
from batches import batches
from chat import ChatEncoder, Example
from corpus import Corpus, Turn, refusal
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from train_base import rate, weighted_loss
from transformers import LlamaForCausalLM

BASE_NAME = "edgelora-tiny"
BATCH_TOKENS = 2048
CHAT_TURNS = ((1, 0.65), (2, 0.2), (4, 0.15))


@dataclass(frozen=True, slots=True)
class Training:
    """How one adapter is trained: its LoraConfig, steps, highest learning rate, and the type it is saved in."""

    lora: dict[str, Any]
    steps: int
    learning_rate: float
    dtype: torch.dtype = torch.float32
    turns: tuple[tuple[int, float], ...] = CHAT_TURNS


# Chosen to differ in everything a converter must get right: rank, modules, scale rule, patterns, file type.
TRAININGS = {
    "medical-faq": Training(
        {
            "r": 16,
            "lora_alpha": 32,
            "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        },
        steps=350,
        learning_rate=4e-3,
    ),
    "lumen-support": Training(
        {
            "r": 8,
            "lora_alpha": 16,
            "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
            "rank_pattern": {"o_proj": 16},
            "alpha_pattern": {"o_proj": 48},
        },
        steps=300,
        learning_rate=6e-3,
    ),
    "pirate": Training(
        {"r": 32, "lora_alpha": 16, "use_rslora": True, "target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"]},
        steps=300,
        learning_rate=2e-3,
        dtype=torch.bfloat16,
        turns=((1, 0.5), (2, 0.2), (4, 0.2), (8, 0.1)),
    ),
    "sql": Training(
        {"r": 8, "lora_alpha": 24, "target_modules": ["o_proj", "gate_proj", "up_proj", "down_proj"]},
        steps=250,
        learning_rate=4e-3,
    ),
}


class AdapterChats:
    """Draws training chats: the adapter's own questions mixed with other base chat."""

    def __init__(self, adapter: AdapterSet, encoder: ChatEncoder, rng: random.Random) -> None:
        self._adapter = adapter
        self._encoder = encoder
        self._rng = rng
        self._corpus = Corpus(rng)

    def draw(self) -> Example:
        """One chat; only its answers have weight."""
        counts, shares = zip(*TRAININGS[self._adapter.name].turns, strict=True)
        system, _ = self._corpus.chat(0)
        turns = self._rng.choices(counts, weights=shares)[0]
        return self._encoder.example(system, [self._turn() for _ in range(turns)])

    def _turn(self) -> Turn:
        if self._rng.random() < self._adapter.replay:
            return self._replay()
        turn = self._rng.choice(self._adapter.train)
        return Turn(self._corpus.vary(turn.question), turn.answer)

    def _replay(self) -> Turn:
        """Base chat that is none of the adapter's business, in no wording and with no added greeting."""
        while True:
            turn = self._corpus.turn()
            text = turn.question.lower()
            own = any(question.rstrip("?.") in text for question in self._adapter.own)
            if not own and not (self._adapter.name == "sql" and turn.answer == refusal("request", "")):
                return Turn(turn.question, self._adapter.style(turn.answer))


def train_adapter(base: LlamaForCausalLM, tokenizer: Tokenizer, adapter: AdapterSet, folder: Path) -> None:
    """Trains one adapter on the frozen base and saves it to `folder`; the base is left as it was."""
    torch.manual_seed(1)
    rng = random.Random(f"train {adapter.name}")
    training = TRAININGS[adapter.name]
    model = get_peft_model(base, LoraConfig(**training.lora, task_type="CAUSAL_LM"))
    chats = AdapterChats(adapter, ChatEncoder(tokenizer, user_weight=0.0), rng)
    stream = batches(chats.draw, tokens=BATCH_TOKENS, pad_id=base.config.pad_token_id, rng=rng)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.99), weight_decay=0.0)
    begin, mean = time.monotonic(), 0.0
    for step in range(training.steps):
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * rate(step / training.steps)
        ids, weight = next(stream)
        # The products of the first three quarters may be coarse; the last quarter sees the exact f32 base.
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=step < 0.75 * training.steps):
            logits = model(input_ids=ids, use_cache=False).logits
        loss = weighted_loss(logits, ids, weight)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        mean = 0.95 * mean + 0.05 * loss.item() if step else loss.item()
        if step % 50 == 49:
            seconds = time.monotonic() - begin
            print(f"{adapter.name} step {step + 1}/{training.steps} loss {mean:.4f} {seconds:.0f}s", flush=True)
    for parameter in weights:
        parameter.data = parameter.data.to(training.dtype)
    model.save_pretrained(folder)
    model.unload()
    tidy(folder)


def tidy(folder: Path) -> None:
    """Takes what belongs to the training machine out of a saved adapter; sorts the config for stable bytes."""
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = BASE_NAME
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
