"""The fingerprint that decides whether an adapter fits a base: architecture, shapes, vocabulary and chat template."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from edgelora_models.shape import LlamaShape


@dataclass(frozen=True, slots=True)
class BaseFingerprint:
    """Identity of a base. Quantizations of one model share it; another model, vocabulary or template does not."""

    architecture: str
    shape: LlamaShape
    vocabulary: str
    """sha256 hex of the token strings in id order, each followed by a zero byte."""
    template: str
    """sha256 hex of the chat template's UTF-8 text; of the empty string where there is none."""

    @property
    def digest(self) -> str:
        """sha256 hex over all fields: the key under which conversions are kept."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
