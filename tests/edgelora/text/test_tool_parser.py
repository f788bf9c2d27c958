"""Calls in an answer's text: found however the text is cut into pieces, and never made up."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.text.tool_parser import CallArguments, CallBegun, CallParser, ForcedCallParser, Part, TextPart, ToolParser

NAMES = ("weather", "clock")
BERN = {"city": 'Bern {["]}\\', "days": [1, {"a": None}]}
CALL = json.dumps({"name": "weather", "parameters": BERN})
CLOCK = '{"name": "clock", "parameters": {}}'


def joined(parts: list[Part]) -> list[tuple[str, str]]:
    """("words", text) and (function, arguments), neighbouring pieces put together."""
    found: list[tuple[str, str]] = []
    for part in parts:
        if isinstance(part, CallBegun):
            found.append((part.name, ""))
        elif isinstance(part, TextPart) and (not found or found[-1][0] != "words"):
            found.append(("words", part.text))
        else:
            found[-1] = (found[-1][0], found[-1][1] + part.text)
    return found


def read(reader: ToolParser, pieces: list[str], *, cut: bool = False) -> list[tuple[str, str]]:
    parts = [part for piece in pieces for part in reader.feed(piece)]
    return joined([*parts, *reader.finish(cut=cut)])


def called(name: str, arguments: object) -> tuple[str, str]:
    return name, json.dumps(arguments)


WHOLE: list[tuple[str, list[tuple[str, str]]]] = [
    (CALL, [called("weather", BERN)]),
    (f"  \n{CALL}\n", [called("weather", BERN)]),
    (f"{CALL}; {CLOCK}", [called("weather", BERN), called("clock", {})]),
    (f"{CALL}\n{CLOCK}\n\n", [called("weather", BERN), called("clock", {})]),
    (f"I look.\n{CLOCK}", [("words", "I look.\n"), called("clock", {})]),
    (f"{CLOCK} Done.", [called("clock", {}), ("words", " Done.")]),
    ('{"name": "clock"}', [called("clock", {})]),
    ('{"type": "function", "name": "clock", "parameters": {"a": 1}}', [called("clock", {"a": 1})]),
    ('{"type": "function", "function": {"name": "clock", "arguments": "{\\"a\\": 1}"}}', [called("clock", {"a": 1})]),
    ('{"function": "clock", "arguments": {"a": 1}}', [called("clock", {"a": 1})]),
    ('{ "parameters": {"a": 1}, "name": "clock" }', [called("clock", {"a": 1})]),
    ('<function=clock>{"a": 1}</function>', [called("clock", {"a": 1})]),
    ('<function=clock>{"a": 1}</function>\n<function=clock>{}', [called("clock", {"a": 1}), called("clock", {})]),
    (
        f"<tool_call>\n{CALL}\n</tool_call>\n<tool_call>{CLOCK}</tool_call>",
        [called("weather", BERN), called("clock", {})],
    ),
    ('{"name": "weather", "parameters": {"city": "Bern"}', [called("weather", {"city": "Bern"})]),
    ('{"name": "clock", "parameters": {"a": "\\ud800"}}', [("clock", '{"a": "\\ud800"}')]),
]
WORDS = [
    "Sunny.",
    "",
    "  ",
    "{",
    "<",
    "<b>bold</b>",
    "</function>",
    "<tool_call>",
    "<tool_call>x</tool_call>",
    '{"weather": 5}',
    '{"name": "Ann", "age": 5}',
    '{"name": "rain", "parameters": {}}',
    '{"name": "clock", "parameters": [1]}',
    '{"name": "clock", "parameters": "x"}',
    '{"name": "clock", "parameters": {"a": NaN}}',
    "{'name': 'clock'}",
    '{"name": clock}',
    '{"name": ["clock"]}',
    '[{"name": "clock"}]',
    f"It is {CLOCK}",
    '{"name": "clock", "parameters": ' + '{"a":' * 70 + "1" + "}" * 71,
    '{"name": "clock", "parameters": {"a": {"b": {"c": 1',
    "<function=" + "x" * 200,
    "<function=rain>{}</function>",
]


@settings(deadline=None, max_examples=120)
@given(st.sampled_from(WHOLE + [(text, [("words", text)] if text else []) for text in WORDS]), st.data())
def test_calls_are_found_however_the_text_is_cut(case: tuple[str, list[tuple[str, str]]], data: st.DataObject) -> None:
    """In Llama's forms and OpenAI's, behind words, several; what only looks like one is words, to the letter."""
    text, wanted = case
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(CallParser(NAMES), pieces) == wanted


@pytest.mark.parametrize(("text", "wanted"), [*WHOLE, *((t, [("words", t)] if t else []) for t in WORDS)])
def test_calls_are_found_character_by_character(text: str, wanted: list[tuple[str, str]]) -> None:
    """The same of every case, in the smallest pieces."""
    assert read(CallParser(NAMES), list(text)) == wanted


def test_words_are_not_held_back() -> None:
    """What cannot be the beginning of a call is told at once; what may be one is told as soon as it is none."""
    reader = CallParser(NAMES)
    assert reader.feed("Sun") == [TextPart("Sun")] and reader.feed("ny.\n") == [TextPart("ny.\n")]
    assert reader.feed('{"na') == [] and reader.feed('tion"') == [TextPart('{"nation"')]


def test_a_call_cut_short_is_words() -> None:
    """Where the length ended the answer nothing is completed: it is not known what the call would have been."""
    cut = '{"name": "clock", "parameters": {}'
    assert read(CallParser(NAMES), [cut], cut=True) == [("words", cut)]
    assert read(CallParser(NAMES), [cut], cut=False) == [called("clock", {})]


def test_held_calls_are_told_as_they_come() -> None:
    """Under a grammar the name is told once it is there, then the arguments, letter by letter, as they stand."""
    reader = ForcedCallParser(NAMES)
    assert reader.feed('{"name": "weather", "parameters"') == []
    assert reader.feed(': {"ci') == [CallBegun("weather"), CallArguments('{"ci')]
    assert reader.feed('ty": "}"') == [CallArguments('ty": "}"')]
    assert reader.feed('}}; {"name": "clock", "parameters": {}') == [
        CallArguments("}"), CallBegun("clock"), CallArguments("{}"),
    ]  # fmt: skip
    assert reader.feed("}") == [] and reader.finish(cut=False) == []


@pytest.mark.parametrize("size", [1, 2, 3, 7, 200])
def test_held_calls_in_any_pieces(size: int) -> None:
    """However the text is cut: each call's own arguments, character for character."""
    text = f"{CALL}; {CLOCK}; {CALL}"
    pieces = [text[n : n + size] for n in range(0, len(text), size)]
    assert read(ForcedCallParser(NAMES), pieces) == [called("weather", BERN), ("clock", "{}"), called("weather", BERN)]
