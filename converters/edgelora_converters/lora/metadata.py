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


def ours(said: Mapping[str, Any]) -> dict[str, str]:
    """The words among a file's keys, without the prefix."""
    found = {k.removeprefix(PROVENANCE_PREFIX): v for k, v in said.items() if k.startswith(PROVENANCE_PREFIX)}
    return {key: value for key, value in found.items() if isinstance(value, str)}


def spelled(invocation: tuple[int, ...]) -> str:
    return " ".join(map(str, invocation))


def invocation_of(said: Mapping[str, str]) -> tuple[int, ...]:
    """The token ids that `spelled` wrote; empty where there are none. Raises AdapterCorrupt."""
    words = said[INVOCATION].split(" ") if INVOCATION in said else []
    if not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        message = f"The file's edgelora.{INVOCATION} is {quoted(said[INVOCATION])}, not token numbers."
        raise AdapterCorrupt("bad_invocation", message, "Convert the adapter again.", param=INVOCATION)
    return tuple(map(int, words))
