"""Functions in a prompt: as the base's template writes them, or in words; and never with a control token in them."""

from __future__ import annotations

import json

import pytest

from edgelora.core.errors import ContextTooLong, UsageError
from edgelora.text.chat_template import knows_tools
from edgelora.text.prompt import Message, encode_chat
from edgelora.text.system_prefix import system_length
from edgelora.text.tools import Tool, ToolCall
from tests.edgelora.text.test_prompt import VOCABULARY, controls, read, with_template
from tests.support.fake_backend.tokenizer import CHAT_TEMPLATE, CONTROL_TEXTS, FakeTokenizer

# In Llama 3.1's manner: functions in the first user message, one call in a message, results from `ipython`.
LLAMA_LIKE = (
    "{{- bos_token }}"
    "{%- if messages[0].role == 'system' %}{% set first = messages[0].content %}{% set messages = messages[1:] %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\n' + first + '<|eot_id|>' }}{% endif %}"
    "{%- for m in messages %}"
    "{{- '<|start_header_id|>' + ('ipython' if m.role == 'tool' else m.role) + '<|end_header_id|>\n\n' }}"
    "{%- if loop.first and tools %}{% for t in tools %}{{ t | tojson }}\n{% endfor %}{% endif %}"
    "{%- if 'tool_calls' in m %}"
    "{%- if m.tool_calls | length > 1 %}{{ raise_exception('one call at once') }}{% endif %}"
    "{%- set f = m.tool_calls[0].function %}"
    '{{- \'{"name": "\' + f.name + \'", "parameters": \' }}{{ f.arguments | tojson }}{{ "}" }}'
    "{%- else %}{{ m.content }}{% endif %}"
    "{{- '<|eot_id|>' }}{% endfor %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
TELLS_IDS = "{{- m.tool_call_id }}{{- '<|eot_id|>' }}{% endfor %}"
LLAMA = with_template(LLAMA_LIKE)
WEATHER = Tool("weather", '{"type": "object", "properties": {"city": {"type": "string"}}}', "The weather.")
ASKED = [Message("system", "Be brief."), Message("user", "Weather?")]
HISTORY = [
    *ASKED,
    Message("assistant", "", (ToolCall("1", "weather", '{"city": "Bern"}'), ToolCall("2", "clock", "{}"))),
    Message("tool", "sunny", call_id="1"),
    Message("tool", "12:00", call_id="2"),
]


def test_a_template_that_knows_functions_is_known() -> None:
    """By what it makes of one; those that leave out functions, calls or results do not know them."""
    assert knows_tools(LLAMA_LIKE)
    assert not knows_tools(CHAT_TEMPLATE)
    assert not knows_tools(LLAMA_LIKE.replace("if loop.first and tools", "if false"))
    assert not knows_tools("{{ nothing.at_all }}")


def test_the_template_s_own_form() -> None:
    """Functions go in as OpenAI's objects, where the template puts them."""
    text = read(encode_chat(ASKED, LLAMA, tools=[WEATHER]))
    before, _, after = text.partition("user<|end_header_id|>\n\n")
    spec, _, asked = after.partition("\n")
    assert json.loads(spec) == WEATHER.spec(str) and asked.startswith("Weather?") and "weather" not in before


def test_two_calls_at_once_are_told_one_by_one() -> None:
    """A template that takes one call in a message gets each with its result behind it."""
    text = read(encode_chat(HISTORY, LLAMA))
    order = [
        '{"name": "weather", "parameters": {"city": "Bern"}}',
        "sunny",
        '{"name": "clock", "parameters": {}}',
        "12:00",
    ]
    places = [text.index(one) for one in order]
    assert places == sorted(places) and text.count("sunny") == 1 and text.count("ipython") == 2


def test_in_words() -> None:
    """A template that knows none: functions in the system message, calls the assistant's words, results the user's."""
    text = read(encode_chat([*HISTORY, Message("user", "Thanks")], VOCABULARY, tools=[WEATHER]))
    system, user, assistant, results, last = text.split("<|eot_id|>")
    assert system.startswith("<|begin_of_text|><|start_header_id|>system") and "Be brief." in system
    assert json.dumps(WEATHER.spec(str)) in system and '"parameters":' in system
    assert user.endswith("user<|end_header_id|>\n\nWeather?")
    assert assistant.endswith(
        'assistant<|end_header_id|>\n\n{"name": "weather", "parameters": {"city": "Bern"}}; '
        '{"name": "clock", "parameters": {}}'
    )
    assert "user<|end_header_id|>" in results and results.endswith(
        "The function's result: sunny\n\nThe function's result: 12:00\n\nThanks"
    )
    assert last.endswith("assistant<|end_header_id|>\n\n")


@pytest.mark.parametrize("tokenizer", [VOCABULARY, with_template(None)])
def test_in_words_without_a_system_message(tokenizer: object) -> None:
    """It gets one; so does a base without any template."""
    text = read(encode_chat([Message("user", "Hi")], tokenizer, tools=[WEATHER]))  # type: ignore[arg-type]
    assert text.index("system") < text.index("weather") < text.index("Hi")


@pytest.mark.parametrize(
    "tokenizer",
    [VOCABULARY, LLAMA, with_template(LLAMA_LIKE.replace("{{- '<|eot_id|>' }}{% endfor %}", TELLS_IDS))],
    ids=["in words", "by template", "ids too"],
)
def test_nothing_of_a_function_is_a_control_token(tokenizer: object) -> None:
    """Descriptions, keys, arguments and results spell control tokens out as plain text, like messages."""
    evil = "".join(CONTROL_TEXTS)
    tool = Tool("weather", json.dumps({"type": "object", "properties": {evil: {"enum": [evil]}}}), evil)
    call = ToolCall(evil, "weather", json.dumps({evil: [evil]}))
    said = [Message("user", "Hi"), Message("assistant", evil, (call,)), Message("tool", evil, call_id=evil)]
    calm = [
        Message("user", "Hi"),
        Message("assistant", "", (ToolCall("1", "weather", "{}"),)),
        Message("tool", "x", call_id="1"),
    ]
    tokens = encode_chat(said, tokenizer, tools=[tool])  # type: ignore[arg-type]
    assert controls(tokens) == controls(encode_chat(calm, tokenizer, tools=[WEATHER]))  # type: ignore[arg-type]
    assert read(tokens).count(evil) >= 4


def test_functions_count_for_the_context() -> None:
    """What cannot fit is refused, whoever wrote it."""
    large = Tool("f", json.dumps({"type": "object", "description": "x" * 5000}))
    with pytest.raises(ContextTooLong):
        encode_chat(ASKED, LLAMA, tools=[large], limit=100)
    with pytest.raises(UsageError):
        encode_chat(ASKED, LLAMA, tools=[Tool("f", "{}", "\ud800")])


def test_the_system_prompt_has_the_functions_in_it() -> None:
    """What two conversations with the same functions share reaches up to the user's words."""
    tokens = encode_chat(ASKED, LLAMA, tools=[WEATHER])
    length = system_length(ASKED, tokens, LLAMA, tools=[WEATHER])
    assert read(tokens[:length]).endswith(json.dumps(WEATHER.spec(str)) + "\n")


@pytest.mark.parametrize("template", [LLAMA, VOCABULARY])
def test_a_call_that_was_cut_is_told_as_it_is(template: FakeTokenizer) -> None:
    """Its arguments are a text, as transformers hands them over, and hold no control token."""
    cut = '{"city": "Ber<|eot_id|>'
    call = ToolCall("1", "weather", cut, complete=False)
    tokens = encode_chat([*ASKED, Message("assistant", "", (call,))], template)
    whole = encode_chat([*ASKED, Message("assistant", "", (ToolCall("1", "weather", "{}"),))], template)
    assert json.dumps(cut) in read(tokens) and controls(tokens) == controls(whole)
