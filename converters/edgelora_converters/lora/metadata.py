"""The metadata of a converted file under `edgelora.`: reading its keys, and the form of an aLoRA's invocation tokens.

Owns the spelling; which words there are, and that they are true, is `provenance`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgelora_models.errors import AdapterCorrupt
from edgelora_models.files import quoted

PROVENANCE_PREFIX = "edgelora."


INVOCATION = "invocation"
"""The token ids an aLoRA acts from on, in every format: edgelora's own layout has them nowhere else."""


def ours(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return the words among a file's keys, without the prefix."""
    values = {k.removeprefix(PROVENANCE_PREFIX): v for k, v in metadata.items() if k.startswith(PROVENANCE_PREFIX)}
    return {key: value for key, value in values.items() if isinstance(value, str)}


def spelled(invocation: tuple[int, ...]) -> str:
    return " ".join(map(str, invocation))


def invocation_of(metadata: Mapping[str, str]) -> tuple[int, ...]:
    """Return the token ids that `spelled` wrote; empty where there are none. Raises AdapterCorrupt."""
    words = metadata[INVOCATION].split(" ") if INVOCATION in metadata else []
    if not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        message = f"The file's edgelora.{INVOCATION} is {quoted(metadata[INVOCATION])}, not token numbers."
        raise AdapterCorrupt("bad_invocation", message, "Convert the adapter again.", param=INVOCATION)
    return tuple(map(int, words))
