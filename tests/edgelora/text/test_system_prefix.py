"""Where a conversation's system prompt ends, in tokens."""

from __future__ import annotations

import pytest

from edgelora.text.prompt import Message, encode_chat
from edgelora.text.system_prefix import system_length, system_prefix
from tests.edgelora.text.test_prompt import VOCABULARY, read, user, with_template


@pytest.mark.parametrize("question", ["A", "7", "Anything", "77", " A", "", "\n\nA", "\u00c4", "{{ x }}"])
def test_the_systems_part_ends_where_the_user_begins(question: str) -> None:
    """Whatever is asked and said afterwards, it is the same tokens, and just those that `system_prefix` gives."""
    prefix = system_prefix("Be brief.", VOCABULARY)
    assert read(prefix).endswith("Be brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n")
    messages = [Message("system", "Be brief."), *user(question), Message("assistant", "So."), *user("And?")]
    for end in (2, 4):
        tokens = encode_chat(messages[:end], VOCABULARY)
        length = system_length(messages[:end], tokens, VOCABULARY)
        # An empty message is followed by what ends it, which is neither of the two openings.
        assert tokens[:length] == prefix


def test_the_systems_part_of_odd_conversations() -> None:
    """None without a system message; a template without one has none either; alone it ends where a user would begin."""
    tokens = encode_chat(user("Hi"), VOCABULARY)
    assert system_length(user("Hi"), tokens, VOCABULARY) == 0 and system_length([], (), VOCABULARY) == 0
    alone = [Message("system", "Be brief.")]
    length = system_length(alone, encode_chat(alone, VOCABULARY), VOCABULARY)
    assert read(encode_chat(alone, VOCABULARY)[:length]).endswith("Be brief.<|eot_id|><|start_header_id|>")
    last_only = with_template("{{ messages[-1]['content'] }}")
    assert system_prefix("Be brief.", last_only) == ()
