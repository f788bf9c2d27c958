"""The base: a small Llama, trained from nothing on the corpus and rounded to bf16."""

import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from adapter_sets import all_sets
from batches import Batch, batches
from chat import ChatEncoder, Example
from corpus import Corpus
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}
ROPE_THETA = 500000.0
BATCH_TOKENS = 3072
STEPS = 1900
COPY_STEPS = 300
# 512 positions cover the longest chats of the corpus; most of the time goes into short ones.
CHAT_TURNS = ((1, 0.50), (2, 0.20), (4, 0.20), (8, 0.10))


def base_config(tokenizer: Tokenizer) -> LlamaConfig:
    """The architecture of Llama 3.1, small: rows of 256 so that K-quants are possible too."""
    return LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,
        rope_parameters={**ROPE, "rope_theta": ROPE_THETA},
        tie_word_embeddings=False,
        bos_token_id=tokenizer.token_to_id("<|begin_of_text|>"),
        attention_bias=False,
        mlp_bias=False,
        eos_token_id=[tokenizer.token_to_id(token) for token in ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")],
        pad_token_id=tokenizer.token_to_id("<|finetune_right_pad_id|>"),
    )


def weighted_loss(logits: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each next token, weighted; logits [rows, length, vocab], ids and weights [rows, length]."""
    targets, weight = ids[:, 1:].reshape(-1), weights[:, 1:].reshape(-1)
    losses = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets, reduction="none")
    return (losses * weight).sum() / weight.sum()


def optimizers(model: torch.nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers (it needs far fewer steps here), AdamW for embeddings, head and norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or ".layers." not in name]
    return [
        torch.optim.Muon(matrices, lr=4e-3, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=4e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def rate(progress: float) -> float:
    """The learning rate at `progress` in [0, 1], as a share of the highest: short warm-up, then a cosine to 2%."""
    if progress < 0.03:
        return progress / 0.03
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (progress - 0.03) / 0.97))


def train(model: LlamaForCausalLM, stream: Iterator[Batch], *, steps: int, share: float) -> None:
    """`steps` optimizer steps at `share` of the learning rates; matrix products in bf16, weights in f32."""
    both = optimizers(model)
    groups = [(group, group["lr"]) for optimizer in both for group in optimizer.param_groups]
    begin, mean = time.monotonic(), 0.0
    for step in range(steps):
        for group, highest in groups:
            group["lr"] = share * highest * rate(step / steps)
        ids, weights = next(stream)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(input_ids=ids, use_cache=False).logits
        loss = weighted_loss(logits, ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in both:
            optimizer.step()
            optimizer.zero_grad()
        mean = 0.95 * mean + 0.05 * loss.item() if step else loss.item()
        if step % 50 == 49:
            print(f"step {step + 1}/{steps} loss {mean:.4f} {time.monotonic() - begin:.0f}s", flush=True)


def chats(corpus: Corpus, encoder: ChatEncoder, rng: random.Random, pad_id: int) -> Iterator[Batch]:
    """Endless batches of the corpus's chats, of CHAT_TURNS turns."""
    counts, shares = zip(*CHAT_TURNS, strict=True)

    def draw() -> Example:
        return encoder.example(*corpus.chat(rng.choices(counts, weights=shares)[0]))

    return batches(draw, tokens=BATCH_TOKENS, pad_id=pad_id, rng=rng)


def answer_words() -> list[str]:
    """Every word of the adapters' answers, with its punctuation, in a fixed order."""
    return sorted({word for adapter in all_sets() for turn in adapter.train for word in turn.answer.split()})


def train_base(tokenizer: Tokenizer, *, seed: int = 0) -> LlamaForCausalLM:
    """The trained base in f32 whose weights are all representable in bf16."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    encoder = ChatEncoder(tokenizer)
    model = LlamaForCausalLM(base_config(tokenizer))
    train(model, chats(Corpus(rng), encoder, rng, model.config.pad_token_id), steps=STEPS, share=1.0)
    copy_words(model, encoder, random.Random(seed + 1))
    return model.to(torch.bfloat16).to(torch.float32).eval()


def copy_words(model: LlamaForCausalLM, encoder: ChatEncoder, rng: random.Random) -> None:
    """More steps with more copying, of all the words adapters use.

    A LoRA leaves the head alone, so a token that the base never wrote could not be told from its like: every token an
    adapter may want must have been written before, though in no sentence.
    """
    corpus = Corpus(rng, echo_words=answer_words(), echo_weight=50)
    train(model, chats(corpus, encoder, rng, model.config.pad_token_id), steps=COPY_STEPS, share=0.4)


def save_base(model: LlamaForCausalLM, folder: Path) -> None:
    """Writes config.json, generation_config.json and model.safetensors (bf16).

    config.json names the rope both ways: transformers 5 reads `rope_parameters`, mlx-lm only the older keys.
    """
    model.to(torch.bfloat16).save_pretrained(folder)
    model.to(torch.float32)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"rope_theta": ROPE_THETA, "rope_scaling": ROPE, "torch_dtype": "bfloat16"}
    config.pop("transformers_version", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
