"""Real PEFT on the tiny bases of `tests.support.bases`: needs torch, transformers and peft, imported on use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelora_models.shape import LlamaShape
from tests.support.bases import tiny_config, tiny_weights
from tests.support.oracles import TOKENS

SEED = 11


def peft_model(
    shape: LlamaShape, config: dict[str, Any], folder: Path, *, trained: Callable[[Any], None] | None = None
) -> Any:
    """Put a random adapter on the tiny base with PEFT, and save it to `folder`; the model, in float32. `trained` may
    change it before that."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    model = LlamaForCausalLM(LlamaConfig(**tiny_config(shape), attn_implementation="eager"))
    weights = {name: torch.from_numpy(array) for name, array in tiny_weights(shape, seed=SEED).items()}
    absent = model.load_state_dict(weights, strict=False)
    assert absent.unexpected_keys == [] and set(absent.missing_keys) <= {"lm_head.weight"}
    model.tie_weights()
    tuned = get_peft_model(model, LoraConfig(**config, init_lora_weights=False, task_type="CAUSAL_LM")).eval()
    if trained is not None:
        trained(tuned)
    tuned.save_pretrained(str(folder), save_embedding_layers=False)
    return tuned


def moved(model: Any) -> None:
    """Move what starts where the base is, as training would: DoRA's magnitudes and the rows of trainable tokens."""
    import torch

    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_magnitude_vector" in name:
                parameter.mul_(1 + 0.4 * (torch.rand(parameter.shape, generator=generator) - 0.5))
            elif "trainable_tokens_delta" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator))


def peft_logits(model: Any, tokens: Sequence[int] = TOKENS) -> NDArray[np.float32]:
    """After every token, [len(tokens), vocab]."""
    import torch

    with torch.no_grad():
        return np.asarray(model(torch.tensor([list(tokens)])).logits[0].numpy())


def peft_answer(model: Any, tokens: Sequence[int], *, count: int) -> list[int]:
    """`count` greedy tokens after a prompt, by PEFT's own `generate`."""
    import torch

    prompt = torch.tensor([list(tokens)])
    out = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=-1,  # no token ends it
        pad_token_id=0,
    )
    return [int(token) for token in out[0][len(tokens) :]]
