"""The fake backend's vocabulary: a token for each byte, a few control tokens, and a chat template."""

from __future__ import annotations

from dataclasses import dataclass

CONTROL_TEXTS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
)
BOS, EOS, START_HEADER, END_HEADER, EOT, PYTHON_TAG = range(256, 256 + len(CONTROL_TEXTS))

CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)


@dataclass(frozen=True, slots=True)
class FakeTokenizer:
    """One token per byte, then CONTROL_TEXTS."""

    chat_template: str | None = CHAT_TEMPLATE
    adds_bos: bool = True

    @property
    def size(self) -> int:
        return 256 + len(CONTROL_TEXTS)

    @property
    def end_ids(self) -> frozenset[int]:
        return frozenset({EOS, EOT})

    @property
    def bos_text(self) -> str:
        return CONTROL_TEXTS[0]

    @property
    def eos_text(self) -> str:
        return CONTROL_TEXTS[1]

    def tokenize(self, text: str, *, special: bool, bos: bool) -> list[int]:
        ids = [BOS] if bos else []
        while text:
            start, token = _first_control(text) if special else (len(text), None)
            ids += text[:start].encode()
            if token is None:
                break
            ids.append(token)
            text = text[start + len(CONTROL_TEXTS[token - 256]) :]
        return ids

    def spells_control(self, text: str) -> bool:
        return any(control in text for control in CONTROL_TEXTS)

    def fewest_tokens(self, text: str) -> int:
        return -(-len(text) // max(map(len, CONTROL_TEXTS)))

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""


def _first_control(text: str) -> tuple[int, int | None]:
    found = [(text.find(control), 256 + n) for n, control in enumerate(CONTROL_TEXTS) if control in text]
    return min(found, default=(len(text), None))
