"""What a base is called: its own names as written, the catalogue's in any case."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from edgelora.store.bases.names import goes_by, means_base


@pytest.mark.parametrize(("own", "aliases", "name", "means"), [
    ("edgelora-tiny", (), "edgelora-tiny", True),
    ("edgelora-tiny", (), "Edgelora-Tiny", False),
    ("edgelora-tiny", (), "llama-3.1-8b-instant", False),
    ("llama-3.1-8b", (), "llama-3.1-8b-instant", True),
    ("llama-3.1-8b", (), "meta-llama/llama-3.1-8b-instruct", True),
    ("llama-3.1-8b", (), "meta-llama/Meta-Llama-3.1-8B-Instruct-Reference", True),
    ("mine", ("llama-3.1-8b-instant",), "meta-llama/Llama-3.1-8B-Instruct", True),
    ("mine", ("other",), "other", True),
    ("mine", (), "llama-3.1-8b", False),
    ("mine", (), "", False),
])  # fmt: skip
def test_a_base_goes_by_its_names(own: str, aliases: tuple[str, ...], name: str, means: bool) -> None:
    """Groq's, Together's and Meta's names mean the base they know by them, and no other."""
    assert goes_by(SimpleNamespace(name=own, aliases=aliases), name) is means


@pytest.mark.parametrize(("name", "taken"), [
    ("auto", True),
    ("mine", True),
    ("other", True),
    ("llama-3.1-8b", True),
    ("llama-3.1-8b-instant", True),
    ("medical-faq", False),
    ("mine-2", False),
])  # fmt: skip
def test_names_that_no_adapter_may_have(name: str, taken: bool) -> None:
    """Those of installed bases, their aliases, the catalogue's, and `auto`."""
    assert means_base(name, [SimpleNamespace(name="Mine", aliases=("other",))]) is taken
