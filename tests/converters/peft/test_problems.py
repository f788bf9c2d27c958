"""problems: one error names everything, with one code where all reasons have one."""

from __future__ import annotations

import pytest

from edgelora_converters.peft.problems import Problems
from edgelora_models.errors import AdapterUnsupported


def test_nothing_wrong_raises_nothing() -> None:
    """No problem, no error."""
    Problems().refuse_any("The adapter")


def test_one_code_is_kept_and_several_are_one_of_their_own() -> None:
    """Programs see the reason where there is one kind of it."""
    problems = Problems()
    problems.add("adapter_arrow", "arrow_config", "it routes", "Merge it.")
    with pytest.raises(AdapterUnsupported) as caught:
        problems.refuse_any("The adapter")
    assert (caught.value.code, caught.value.param) == ("adapter_arrow", "arrow_config")
    problems.add("adapter_init", "init_lora_weights", "it is new", "Wait.")
    with pytest.raises(AdapterUnsupported) as caught:
        problems.refuse_any("The adapter")
    assert caught.value.code == "adapter_unsupported"
    assert "arrow_config: it routes" in caught.value.what and "init_lora_weights: it is new" in caught.value.what
    assert caught.value.remedy == "arrow_config: Merge it; init_lora_weights: Wait."


def test_a_flood_is_counted_and_names_stay_harmless() -> None:
    """Twenty are shown and the rest counted; names from the file are quoted."""
    problems = Problems()
    for n in range(30):
        problems.add("adapter_unknown_field", f"\x1b[{n}", f"it is {n}", "Remove it.")
    with pytest.raises(AdapterUnsupported, match="and 10 more") as caught:
        problems.refuse_any("The adapter")
    assert "\x1b" not in caught.value.what
