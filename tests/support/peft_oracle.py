"""Real PEFT on the tiny bases of `tests.support.bases`: needs torch, transformers and peft, imported on use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgelora_models.shape import LlamaShape
from tests.support.bases import tiny_config, tiny_weights
from tests.support.oracles import TOKENS

SEED = 11


def peft_model(shape: LlamaShape, config: dict[str, Any], folder: Path) -> Any:
    """Put a random adapter on the tiny base with PEFT, and save it to `folder`; the model, in float32."""
    from peft import LoraConfig, get_peft_model

    model = torch_base(shape)
    tuned = get_peft_model(model, LoraConfig(**config, init_lora_weights=False, task_type="CAUSAL_LM")).eval()
    tuned.save_pretrained(str(folder), save_embedding_layers=False)
    return tuned


def loaded_model(shape: LlamaShape, folder: Path) -> Any:
    """The tiny base with the adapter in `folder`, loaded by PEFT itself; every tensor of the file finds its place."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(torch_base(shape), str(folder)).eval()
    absent = model.load_adapter(str(folder), "again")
    assert not absent.unexpected_keys and not [key for key in absent.missing_keys if "lora_" in key]
    model.set_adapter("default")
    return model


def torch_base(shape: LlamaShape) -> Any:
    """Transformers' Llama with the tiny base's weights, in float32; torch's generator is seeded."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    model = LlamaForCausalLM(LlamaConfig(**tiny_config(shape), attn_implementation="eager"))
    weights = {name: torch.from_numpy(array.copy()) for name, array in tiny_weights(shape, seed=SEED).items()}
    absent = model.load_state_dict(weights, strict=False)
    assert absent.unexpected_keys == [] and set(absent.missing_keys) <= {"lm_head.weight"}
    model.tie_weights()
    return model


def trained(model: Any, config: Any, folder: Path, *, initial: Path | None = None) -> Any:
    """`model` with an adapter by `config`, saved to `initial` as it starts and, after its factors were moved at random,
    to `folder`."""
    import torch
    from peft import get_peft_model

    tuned = get_peft_model(model, config).eval()
    if initial is not None:
        tuned.save_pretrained(str(initial), save_embedding_layers=False)
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if ".lora_" in name and "monteclora" not in name:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    tuned.save_pretrained(str(folder), save_embedding_layers=False)
    return tuned


def moved_peft_model(shape: LlamaShape, config: dict[str, Any], folder: Path) -> Any:
    """As `peft_model`, with what starts where the base is moved, as training would: DoRA's magnitudes and the rows of
    trainable tokens."""
    import torch
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(**config, init_lora_weights=False, task_type="CAUSAL_LM")
    tuned = get_peft_model(torch_base(shape), settings).eval()
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_magnitude_vector" in name:
                parameter.mul_(1 + 0.4 * (torch.rand(parameter.shape, generator=generator) - 0.5))
            elif "trainable_tokens_delta" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator))
    tuned.save_pretrained(str(folder), save_embedding_layers=False)
    return tuned


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
