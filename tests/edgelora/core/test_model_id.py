"""Model ids: every documented form, taken apart."""

import pytest

from edgelora.core.model_id import ModelId, split_model_id, without_project


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("medical-faq", ModelId(None, "medical-faq")),
        ("medical-faq@3", ModelId(None, "medical-faq@3")),
        ("edgelora-tiny:medical-faq", ModelId("edgelora-tiny", "medical-faq")),
        ("edgelora-tiny:medical-faq@latest", ModelId("edgelora-tiny", "medical-faq@latest")),
        ("meta-llama/Llama-3.1-8B-Instruct", ModelId(None, "meta-llama/Llama-3.1-8B-Instruct")),
        (
            "ft:llama-3.1-8b-instant:org_01/my-lora-adapter-ef36419a0010",
            ModelId("llama-3.1-8b-instant", "my-lora-adapter@ef36419a0010"),
        ),
    ],
)
def test_each_documented_form_is_taken_apart(text: str, parts: ModelId) -> None:
    """Every form of design section 9 gives its base and its adapter."""
    assert split_model_id(text) == parts


def test_a_hosted_id_without_a_full_hash_is_no_hosted_id() -> None:
    """A shortened hash is not guessed at: the id stays unknown, and resolving it fails."""
    assert split_model_id("ft:base:org/name-ef36") == ModelId("ft", "base:org/name-ef36")


@pytest.mark.parametrize(("adapter", "name"), [
    ("medical-faq", "medical-faq"), ("proj_1/medical-faq", "medical-faq"), ("me/medical-faq@2", "medical-faq@2"),
    ("a/b/c", "a/b/c"), ("/a", "/a"), ("a/", ""),
])  # fmt: skip
def test_a_project_before_a_name_is_let_go(adapter: str, name: str) -> None:
    """One, as Together's clients write it; what is no such form stays as it is, and is unknown."""
    assert without_project(adapter) == name
