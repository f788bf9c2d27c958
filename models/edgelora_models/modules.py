"""The modules of a Llama that an adapter may change: their names in Hugging Face, GGUF and MLX, widths and row orders.

Seven linear modules in every layer, and outside the layers the embedding and the output head.

One table, read by the converters (names, permutation) and by the runtime (which graph node is which module).
Hugging Face and MLX share one naming and row order. llama.cpp interleaves the two halves of every rotary head, so the
rows of q and k (and of lora_B there, never of lora_A) are permuted on the way to GGUF.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgelora_models.shape import LlamaShape

Width = Literal["hidden", "q", "kv", "ffn", "vocab"]


@dataclass(frozen=True, slots=True)
class LinearModule:
    """A kind of linear module, in every layer or (EMBEDDING, HEAD) once. Its weight is [out_width, in_width], but for
    the embedding, whose weight is [vocab, hidden]: it maps a token, one of `vocab`, to `hidden` values."""

    hf: str
    """Path below `model.layers.N.`; the whole path where there is one of it."""
    gguf: str
    """Name between `blk.N.`, where it is in a layer, and `.weight`"""
    out_width: Width
    in_width: Width
    rotary: Literal["q", "kv"] | None = None
    """Head count that orders the rows in GGUF; None if the order is unchanged."""

    @property
    def short(self) -> str:
        """The name PEFT's target_modules uses, such as `q_proj`."""
        return self.hf.rpartition(".")[2]

    def hf_path(self, layer: int | None) -> str:
        """Return the module's Hugging Face path; `layer` is None for EMBEDDING and HEAD."""
        return self.hf if layer is None else f"model.layers.{layer}.{self.hf}"

    def gguf_path(self, layer: int | None) -> str:
        return f"{self.gguf}.weight" if layer is None else f"blk.{layer}.{self.gguf}.weight"

    def out_features(self, shape: LlamaShape) -> int:
        return _width(self.out_width, shape)

    def in_features(self, shape: LlamaShape) -> int:
        return _width(self.in_width, shape)

    def rotary_heads(self, shape: LlamaShape) -> int | None:
        if self.rotary is None:
            return None
        return shape.heads if self.rotary == "q" else shape.kv_heads


def _width(width: Width, shape: LlamaShape) -> int:
    return {
        "hidden": shape.hidden,
        "q": shape.q_width,
        "kv": shape.kv_width,
        "ffn": shape.ffn,
        "vocab": shape.vocab,
    }[width]


LINEAR_MODULES: tuple[LinearModule, ...] = (
    LinearModule("self_attn.q_proj", "attn_q", "q", "hidden", rotary="q"),
    LinearModule("self_attn.k_proj", "attn_k", "kv", "hidden", rotary="kv"),
    LinearModule("self_attn.v_proj", "attn_v", "kv", "hidden"),
    LinearModule("self_attn.o_proj", "attn_output", "hidden", "q"),
    LinearModule("mlp.gate_proj", "ffn_gate", "ffn", "hidden"),
    LinearModule("mlp.up_proj", "ffn_up", "ffn", "hidden"),
    LinearModule("mlp.down_proj", "ffn_down", "hidden", "ffn"),
)

"""In every layer."""

EMBEDDING = LinearModule("model.embed_tokens", "token_embd", "hidden", "vocab")
HEAD = LinearModule("lm_head", "output", "vocab", "hidden")
OUTER_MODULES: tuple[LinearModule, ...] = (EMBEDDING, HEAD)
"""Outside the layers."""

BY_HF: dict[str, LinearModule] = {m.hf: m for m in LINEAR_MODULES}
BY_GGUF: dict[str, LinearModule] = {m.gguf: m for m in LINEAR_MODULES}
"""These two know the modules of a layer."""
