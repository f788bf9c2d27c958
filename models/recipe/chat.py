"""The Llama-3 chat format as token ids, and which of them are the model's own words."""

from dataclasses import dataclass

import numpy as np
from corpus import Turn
from tokenizers import Tokenizer

# The short Llama-3 form: no tools, no dates; the content of each message is trimmed.
CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)


@dataclass(frozen=True, slots=True)
class Example:
    """`ids` and `weights` have one entry per token; a weight is that of predicting the token."""

    ids: np.ndarray
    weights: np.ndarray


class ChatEncoder:
    """Turns chats into token ids with the project's tokenizer; remembers the pieces it has seen."""

    def __init__(self, tokenizer: Tokenizer, *, user_weight: float = 0.1) -> None:
        self._tokenizer = tokenizer
        self._user_weight = user_weight
        self._known: dict[str, list[int]] = {}
        self.eot = tokenizer.token_to_id("<|eot_id|>")

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, in which special tokens are spelled out; no token is added."""
        if text not in self._known:
            self._known[text] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return self._known[text]

    def prompt(self, question: str, system: str = "") -> list[int]:
        """The ids of a chat with one question, up to where the answer begins."""
        ids = self.encode("<|begin_of_text|>")
        if system:
            ids = ids + self._message("system", system)
        return ids + self._message("user", question) + self._header("assistant")

    def example(self, system: str, turns: list[Turn]) -> Example:
        """A whole chat as a training example: full weight on the answers, a small one on the rest."""
        ids = list(self.encode("<|begin_of_text|>"))
        weights = [0.0]
        if system:
            self._add(ids, weights, self._message("system", system), 0.0)
        for turn in turns:
            self._add(ids, weights, self._message("user", turn.question), self._user_weight)
            self._add(ids, weights, self._header("assistant"), self._user_weight)
            self._add(ids, weights, [*self.encode(turn.answer), self.eot], 1.0)
        return Example(np.array(ids, np.int64), np.array(weights, np.float32))

    def _message(self, role: str, content: str) -> list[int]:
        return self._header(role) + self.encode(content.strip()) + [self.eot]

    def _header(self, role: str) -> list[int]:
        return self.encode(f"<|start_header_id|>{role}<|end_header_id|>\n\n")

    @staticmethod
    def _add(ids: list[int], weights: list[float], piece: list[int], weight: float) -> None:
        ids.extend(piece)
        weights.extend([weight] * len(piece))
