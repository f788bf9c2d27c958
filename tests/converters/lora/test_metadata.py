"""The words of converted files."""

from __future__ import annotations

import pytest

from edgelora_converters.lora.metadata import invocation_of, ours, spelled
from edgelora_models.errors import AdapterCorrupt


def test_ours() -> None:
    """Text under our prefix, and nothing else of the keys."""
    assert ours({"edgelora.fold": "none", "edgelora.layout": 1, "general.name": "x"}) == {"fold": "none"}


@pytest.mark.parametrize("invocation", [(), (7,), (128006, 9, 0)])
def test_invocations(invocation: tuple[int, ...]) -> None:
    """What is spelled is read; none is spelled for plain LoRA."""
    assert invocation_of({"invocation": spelled(invocation)} if invocation else {}) == invocation


@pytest.mark.parametrize("text", ["", "7,9", "-1", "7  9", "x", "9" * 12])
def test_no_token_numbers(text: str) -> None:
    """Anything but numbers with single spaces between them is not believed."""
    with pytest.raises(AdapterCorrupt):
        invocation_of({"invocation": text})
