"""The catalogue of known bases: found by every name people use for them, complete for both backends."""

from __future__ import annotations

import pytest

from edgelora_models.catalogue import ENTRIES, find, find_shape
from edgelora_models.errors import NotFound


@pytest.mark.parametrize(
    "name",
    ["llama-3.1-8b", "llama-3.1-8b-instant", "meta-llama/Llama-3.1-8B-Instruct", "META-LLAMA/llama-3.1-8b-INSTRUCT"],
)
def test_find_by_name_and_alias(name: str) -> None:
    """The short name, Groq's name and Meta's repository are one base, in any case."""
    assert find(name).name == "llama-3.1-8b"


def test_unknown_names() -> None:
    """An unknown name comes with a near one, or with what else can be done."""
    with pytest.raises(NotFound) as caught:
        find("llama-3.1-8")
    assert "llama-3.1-8b" in caught.value.near
    with pytest.raises(NotFound) as caught:
        find("zzz")
    assert "llama-3.1-8b" in caught.value.remedy and "edgelora base add PATH" in caught.value.remedy


def test_every_entry_has_both_builds() -> None:
    """Each base can be pulled for llama.cpp and for MLX, and no name means two bases."""
    names = [name.lower() for entry in ENTRIES for name in (entry.name, *entry.aliases)]
    assert len(names) == len(set(names))
    for entry in ENTRIES:
        gguf, mlx = entry.build("gguf"), entry.build("mlx")
        assert [name.endswith(".gguf") for name in gguf.files] == [True]
        assert {"config.json", "tokenizer.json", "tokenizer_config.json"} < set(mlx.files)
        assert entry.licence and min(gguf.nbytes, mlx.nbytes) > 10**9
        assert 0 < entry.top_p <= 1 and entry.temperature >= 0


@pytest.mark.parametrize(("model", "entry"), [
    ("meta-llama/Meta-Llama-3.1-8B-Instruct", "llama-3.1-8b"),
    ("unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit", "llama-3.1-8b"),
    ("NousResearch/Meta-Llama-3-8B", "llama-3.1-8b"),
    ("meta-llama/Llama-3.1-70B-Instruct", None),
    ("meta-llama/Llama-3.2-1B", None),
    ("/home/ada/llama-3.1-8b-instruct", None),
    (None, None),
])  # fmt: skip
def test_shapes_by_a_model_s_name(model: str | None, entry: str | None) -> None:
    """Mirrors and checkpoints of the same shape; a path on some machine tells nothing."""
    found = find_shape(model)
    assert (found.name if found else None) == entry
