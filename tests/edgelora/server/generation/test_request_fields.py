"""The fields of generating requests, sent by the real openai client, strict about every shape."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.edgelora.engine.sampling.test_guided_decoding import HONOURED, REFUSED
from tests.support.server import RunningServer
from tests.support.service import FakeService

ASKED: Any = [{"role": "user", "content": "What is the weather in Bern?"}]
CALL = '{"name": "weather", "parameters": {"city": "Bern"}}'
ANSWERS: Mapping[str, str | None] = {
    "words": "Sunny and é warm.",
    "caller": f'{CALL}; {{"name": "clock", "parameters": {{}}}}',
    "talker": f"One moment.\n{CALL}",
    "person": '{"name": "Ann", "age": 5}',
    "letters": None,
}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": CITY}},
    {"type": "function", "function": {"name": "clock"}},
]
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}
Choice = Any


@pytest.fixture(scope="module")
def adapters() -> Mapping[str, str | None]:
    return ANSWERS


def chat(client: openai.OpenAI, model: str, **fields: Any) -> ChatCompletion:
    made: ChatCompletion = client.chat.completions.create(model=model, messages=ASKED, **fields)
    return made


def streamed(client: openai.OpenAI, model: str, **fields: Any) -> list[ChatCompletionChunk]:
    with client.chat.completions.create(model=model, messages=ASKED, stream=True, **fields) as stream:
        return list(stream)


def gathered(chunks: list[ChatCompletionChunk], index: int = 0) -> tuple[str, list[tuple[str, str]], str | None]:
    """Words, calls and reason of one choice of a stream."""
    words, calls, reason = "", dict[int, list[str]](), None
    for chunk in chunks:
        for choice in (choice for choice in chunk.choices if choice.index == index):
            words += choice.delta.content or ""
            reason = choice.finish_reason or reason
            for call in choice.delta.tool_calls or ():
                assert call.function is not None
                if call.function.name:
                    assert call.index == len(calls) and call.id and call.type == "function"
                    calls[call.index] = [call.function.name, ""]
                calls[call.index][1] += call.function.arguments or ""
    return words, [(name, arguments) for name, arguments in calls.values()], reason


def calls_of(choice: Choice) -> list[tuple[str, str]]:
    return [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()]


def test_a_schema(client: openai.OpenAI) -> None:
    """The answer is JSON of that schema, also where the model would say something else; streamed, too."""
    assert chat(client, "person", response_format=FORMAT).choices[0].message.content == ANSWERS["person"]
    forced = chat(client, "words", response_format=FORMAT, logit_bias={str(ord('"')): 5, "125": 3}).choices[0]
    assert set(json.loads(forced.message.content or "")) == {"name", "age"} and forced.finish_reason == "stop"
    words, _, reason = gathered(streamed(client, "person", response_format=FORMAT))
    assert words == ANSWERS["person"] and reason == "stop"


def test_a_schema_by_the_client_s_own_parser(client: openai.OpenAI) -> None:
    """`parse` with a model class works, and its length error comes where the answer was cut."""
    from pydantic import BaseModel

    class Person(BaseModel):
        name: str
        age: int

    made = client.chat.completions.parse(model="person", messages=ASKED, response_format=Person)
    assert made.choices[0].message.parsed == Person(name="Ann", age=5)
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model="person", messages=ASKED, response_format=Person, max_tokens=9)


def test_any_json_object(client: openai.OpenAI) -> None:
    """json_object holds the answer to one."""
    made = chat(client, "words", response_format={"type": "json_object"}, logit_bias={"125": 3}).choices[0]
    assert json.loads(made.message.content or "") == {} and made.finish_reason == "stop"
    assert chat(client, "words", response_format={"type": "text"}).choices[0].message.content == ANSWERS["words"]


@pytest.mark.parametrize(
    "schema", [{"not": {}}, {"type": "string", "pattern": "(" * 60_000}, {"type": "string", "pattern": "[a"}]
)
def test_a_schema_that_cannot_be_held_to(client: openai.OpenAI, schema: Any) -> None:
    """400 with the reason, and the client is told not to try again."""
    for fields in (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": schema}}}}],
         "tool_choice": "required"},
    ):  # fmt: skip
        with pytest.raises(openai.BadRequestError) as caught:
            chat(client, "words", **fields)
        assert caught.value.code == "unsupported_schema" and caught.value.param
        assert caught.value.response.headers["x-should-retry"] == "false"


def test_what_breaks_other_servers(server: RunningServer) -> None:
    """Schemas and grammars that crash them, or set answers free, over the socket: one that obeys, or 400."""
    for schema, good, _ in HONOURED:
        body = {"model": "words", "messages": ASKED, "max_tokens": 3, "response_format": _format(schema)}
        reply = server.post("/v1/chat/completions", body)
        content = reply.json["choices"][0]["message"]["content"]
        assert reply.status == 200 and content[:1] == good[:1], schema
    for schema, _ in REFUSED:
        body = {"model": "words", "messages": ASKED, "response_format": _format(schema)}
        reply = server.post("/v1/chat/completions", body)
        assert reply.status == 400 and reply.error["code"] in ("unsupported_schema", "invalid_type", "invalid_json")
    raw = {"model": "words", "messages": ASKED, "grammar": "root ::= " + "(" * 60_000}
    assert server.post("/v1/chat/completions", raw).error["param"] == "grammar"
    assert server.request("GET", "/ready").status == 200


def _format(schema: Any) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def test_calls_that_the_model_makes(client: openai.OpenAI) -> None:
    """auto: found in what it says, whole and streamed; only the first where one is wanted."""
    made = chat(client, "caller", tools=TOOLS).choices[0]
    assert made.message.content is None and made.finish_reason == "tool_calls"
    assert calls_of(made) == [("weather", '{"city": "Bern"}'), ("clock", "{}")]
    assert gathered(streamed(client, "caller", tools=TOOLS)) == ("", calls_of(made), "tool_calls")
    single = streamed(client, "caller", tools=TOOLS, parallel_tool_calls=False)
    assert gathered(single) == ("", [("weather", '{"city": "Bern"}')], "tool_calls")
    assert gathered(streamed(client, "talker", tools=TOOLS)) == (
        "One moment.\n", [("weather", '{"city": "Bern"}')], "tool_calls",
    )  # fmt: skip


def test_no_calls(client: openai.OpenAI) -> None:
    """Words stay words; with none a call is words, and the functions are not told of."""
    made = chat(client, "words", tools=TOOLS).choices[0]
    assert (made.message.content, made.message.tool_calls, made.finish_reason) == (ANSWERS["words"], None, "stop")
    described, undescribed = (chat(client, "caller", tools=TOOLS, tool_choice=choice) for choice in ("auto", "none"))
    assert (
        undescribed.choices[0].message.content == ANSWERS["caller"] and undescribed.choices[0].finish_reason == "stop"
    )
    assert described.usage is not None and undescribed.usage is not None
    assert described.usage.prompt_tokens > undescribed.usage.prompt_tokens


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        ("required", "clock"),
        ({"type": "function", "function": {"name": "weather"}}, "weather"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": TOOLS[:1]}}, "weather"),
    ],
)
def test_calls_that_it_must_make(client: openai.OpenAI, choice: Any, called: str) -> None:
    """Though it would rather talk: a call, its arguments of the function's schema, streamed as they come."""
    fields = {"tools": TOOLS, "tool_choice": choice, "logit_bias": {"34": 5, "125": 3}, "parallel_tool_calls": False}
    made = chat(client, "words", **fields).choices[0]
    ((name, arguments),) = calls_of(made)
    assert name == called and set(json.loads(arguments)) == ({"city"} if called == "weather" else set())
    assert made.message.content is None and made.finish_reason == "tool_calls"
    chunks = streamed(client, "words", **fields)
    assert gathered(chunks) == ("", [(name, arguments)], "tool_calls") and len(chunks) >= len(arguments)


def test_a_call_that_is_cut_says_so(client: openai.OpenAI) -> None:
    """Its reason is the length, whatever is there of it."""
    assert (
        chat(client, "words", tools=TOOLS, tool_choice="required", max_tokens=45).choices[0].finish_reason == "length"
    )


def test_a_call_or_an_answer_of_a_schema(client: openai.OpenAI) -> None:
    """Functions beside a response format: one of the two, told apart."""
    fields = {"tools": TOOLS, "response_format": FORMAT}
    assert calls_of(chat(client, "caller", **fields).choices[0]) == [("weather", '{"city": "Bern"}')]
    made = chat(client, "person", **fields).choices[0]
    assert made.message.content == ANSWERS["person"] and made.finish_reason == "stop"


def test_results_go_back(client: openai.OpenAI, service: FakeService) -> None:
    """Calls and their results, sent back by the client, are in the next prompt."""
    message = chat(client, "caller", tools=TOOLS).choices[0].message
    results: Any = [
        {"role": "tool", "tool_call_id": call.id, "content": f"result {n}"}
        for n, call in enumerate(message.tool_calls or ())
    ]
    history: Any = [*ASKED, message.model_dump(exclude_none=True), *results]
    client.chat.completions.create(model="words", messages=history, tools=TOOLS)
    prompt = bytes(token for token in service.prompts[-1] if token < 256).decode()
    assert prompt.index(CALL) < prompt.index("result 0") < prompt.index("result 1")


def test_logprobs(client: openai.OpenAI) -> None:
    """Every token of the text has logprobs, bytes included; streamed ones are the same."""
    made = chat(client, "words", logprobs=True, top_logprobs=2).choices[0]
    assert made.logprobs is not None and made.logprobs.content is not None
    content = made.logprobs.content
    assert b"".join(bytes(token.bytes or ()) for token in content).decode() == made.message.content == ANSWERS["words"]
    assert all(token.logprob <= 0 and token.top_logprobs[0].token == token.token for token in content)
    assert {len(token.top_logprobs) for token in content} == {2}
    chunks = streamed(client, "words", logprobs=True, top_logprobs=2)
    streamed_tokens = [
        token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content or ()
    ]
    assert [token.model_dump() for token in streamed_tokens] == [token.model_dump() for token in content]
    bare = chat(client, "words", logprobs=True, stop="warm").choices[0]
    assert bare.logprobs is not None and bare.message.content == "Sunny and é "
    assert b"".join(bytes(t.bytes or ()) for t in bare.logprobs.content or ()).decode() == "Sunny and é "


def test_logprobs_of_a_completion(client: openai.OpenAI) -> None:
    """The older shape: texts, places, and the likeliest by their texts."""
    made = client.completions.create(model="words", prompt="Say", logprobs=1, max_tokens=5)
    scores = made.choices[0].logprobs
    assert scores is not None and made.choices[0].text == "Sunny"
    assert (scores.tokens, scores.text_offset) == (list("Sunny"), [0, 1, 2, 3, 4])
    assert scores.top_logprobs == [
        {token: value} for token, value in zip(scores.tokens or (), scores.token_logprobs or (), strict=True)
    ]


def test_several_choices(client: openai.OpenAI, service: FakeService) -> None:
    """n answers to one prompt, which is computed and counted once; seeds make them differ, and come again."""
    as_likely = {str(ord(letter)): 20 for letter in "bcfgjkmpqv"}
    fields = {"n": 3, "seed": 5, "temperature": 1.0, "max_tokens": 12, "logit_bias": as_likely}
    before = len(service.backend.history)
    made = chat(client, "letters", **fields)
    texts = [choice.message.content for choice in made.choices]
    assert [choice.index for choice in made.choices] == [0, 1, 2] and len(set(texts)) == 3
    assert made.usage is not None and made.usage.prompt_tokens == len(service.prompts[-1])
    assert made.usage.completion_tokens == sum(
        chat(client, "letters", **{**fields, "n": 1, "seed": 5 + n}).usage.completion_tokens  # type: ignore[union-attr]
        for n in range(3)
    )
    chunks = streamed(client, "letters", **fields, stream_options={"include_usage": True})
    assert [gathered(chunks, index)[0] for index in range(3)] == texts
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == made.usage.completion_tokens
    assert chunks[-1].choices == [] and all(chunk.usage is None for chunk in chunks[:-1])
    prompt = made.usage.prompt_tokens
    computed = sum(len(chunk.tokens) for step in service.backend.history[before:] for chunk in step)
    assert computed < 2 * prompt + 8 * 3 * 12  # and not eight times the prompt


def test_several_completions(client: openai.OpenAI) -> None:
    """The older API too; echo puts the prompt before each, given as a text or as tokens."""
    for prompt in ("Say ", list(b"Say ")):
        made = client.completions.create(model="words", prompt=prompt, n=2, echo=True, max_tokens=5)
        assert [choice.text for choice in made.choices] == ["Say Sunny"] * 2


def test_penalties_and_bias_reach_the_runtime(client: openai.OpenAI, service: FakeService) -> None:
    """Each field in its own place."""
    chat(client, "words", presence_penalty=0.5, frequency_penalty=-0.25, logit_bias={"97": 2, "98": -100}, max_tokens=1)
    used = service.samplings[-1]
    assert (used.presence_penalty, used.frequency_penalty) == (0.5, -0.25)
    assert used.logit_bias == ((97, 2.0), (98, -100.0))
