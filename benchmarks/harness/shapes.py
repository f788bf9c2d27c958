"""Shapes."""

from __future__ import annotations

from edgelora_models.shape import LlamaShape

SHAPES = {
    "llama-3.1-8b": LlamaShape(
        layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128, ffn=14336, vocab=128256, tied=False
    ),
}
ROPE_THETA = 500000.0
CONTEXT_LENGTH = 131072
CONTROL_TOKENS = 256
_NAMED_CONTROL = {
    0: "<|begin_of_text|>",
    1: "<|end_of_text|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    8: "<|eom_id|>",
    9: "<|eot_id|>",
}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def tokens(size: int) -> list[str]:
    """256 byte tokens, made-up words, and Llama-3's control tokens at their usual places at the end."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    alphabet = [chr(byte) if byte in visible else chr(256 + hidden.index(byte)) for byte in range(256)]
    words = [f"w{number}" for number in range(size - CONTROL_TOKENS - len(alphabet))]
    control = [_NAMED_CONTROL.get(n, f"<|reserved_special_token_{n}|>") for n in range(CONTROL_TOKENS)]
    return [*alphabet, *words, *control]
