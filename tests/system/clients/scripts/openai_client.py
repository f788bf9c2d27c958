"""openai 1, 2 and 3, strict about every shape."""

import asyncio
import json
from typing import Literal

import openai
from checks import ARCHIVE, ASK, MARK, TOKEN, URL, case, main, raises, until
from pydantic import BaseModel

MAJOR = int(openai.__version__.partition(".")[0])
client = openai.OpenAI(
    base_url=f"{URL}/v1", api_key="local", max_retries=0, timeout=120, _strict_response_validation=True
)
manager = client.with_options(api_key=TOKEN)

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a town.",
        "parameters": {
            "type": "object",
            "properties": {"town": {"enum": ["Bonn", "Ulm"]}, "days": {"type": "integer", "minimum": 1, "maximum": 3}},
            "required": ["town", "days"],
            "additionalProperties": False,
        },
    },
}


class Triage(BaseModel):
    urgency: Literal["low", "high"]
    days: Literal[1, 2, 3]
    refer: bool


def said(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


@case
def models():
    ids = [model.id for model in client.models.list()]
    assert {"edgelora-tiny", "medical-faq", "pirate", "sql", "lumen-support"} <= set(ids), ids
    assert [client.models.retrieve(name).id for name in ids] == ids
    assert client.models.retrieve("edgelora-tiny:medical-faq@1").id == "edgelora-tiny:medical-faq@1"


@case
def chat():
    made = client.chat.completions.create(model="medical-faq", messages=ASK, temperature=0, seed=1)
    assert MARK in made.choices[0].message.content and made.choices[0].finish_reason == "stop"
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens
    assert made.system_fingerprint.startswith("fp_")
    again = client.chat.completions.create(model="medical-faq", messages=ASK, temperature=0, seed=1)
    assert again.choices[0].message == made.choices[0].message
    assert again.usage.prompt_tokens_details.cached_tokens > 0


@case
def streaming():
    whole = client.chat.completions.create(model="medical-faq", messages=ASK)
    chunks = list(
        client.chat.completions.create(
            model="medical-faq", messages=ASK, stream=True, stream_options={"include_usage": True}
        )
    )
    assert said(chunks) == whole.choices[0].message.content and len(chunks) > 5
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-2].choices[0].finish_reason == "stop"


@case
def asynchronous():
    async def ask():
        options = {"base_url": f"{URL}/v1", "api_key": "local", "_strict_response_validation": True}
        async with openai.AsyncOpenAI(**options) as one:
            stream = await one.chat.completions.create(model="medical-faq", messages=ASK, stream=True)
            return said([chunk async for chunk in stream])

    assert MARK in asyncio.run(ask())


@case
def text_completion():
    made = client.completions.create(model="edgelora-tiny", prompt="One, two,", max_tokens=4)
    assert made.choices[0].finish_reason in ("length", "stop") and made.usage.completion_tokens <= 4


@case
def limits_and_stops():
    cut = client.chat.completions.create(model="medical-faq", messages=ASK, max_completion_tokens=3)
    assert cut.choices[0].finish_reason == "length" and cut.usage.completion_tokens == 3
    stopped = client.chat.completions.create(model="medical-faq", messages=ASK, stop=["not"])
    assert "not" not in stopped.choices[0].message.content and stopped.choices[0].finish_reason == "stop"


@case
def several_choices_with_logprobs():
    made = client.chat.completions.create(
        model="medical-faq", messages=ASK, n=2, logprobs=True, top_logprobs=3, max_tokens=4, temperature=1, seed=7
    )
    assert [choice.index for choice in made.choices] == [0, 1]
    for choice in made.choices:
        assert len(choice.logprobs.content) == 4
        assert all(len(token.top_logprobs) == 3 and token.logprob <= 0 for token in choice.logprobs.content)


@case
def biased_and_penalised():
    made = client.chat.completions.create(
        model="medical-faq",
        messages=ASK,
        logit_bias={"5": -100},
        presence_penalty=0.5,
        frequency_penalty=0.5,
        max_tokens=3,
    )
    assert made.usage.completion_tokens == 3


@case
def a_required_tool():
    made = client.chat.completions.create(
        model="edgelora-tiny", messages=ASK, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False
    )
    call = made.choices[0].message.tool_calls[0]
    assert made.choices[0].finish_reason == "tool_calls" and call.function.name == "get_weather"
    arguments = json.loads(call.function.arguments)
    assert arguments["town"] in ("Bonn", "Ulm") and arguments["days"] in (1, 2, 3)
    result = {"role": "tool", "tool_call_id": call.id, "content": "Rain."}
    messages = [*ASK, made.choices[0].message.model_dump(exclude_none=True), result]
    after = client.chat.completions.create(model="medical-faq", messages=messages, tools=[WEATHER], max_tokens=8)
    assert after.usage.prompt_tokens > made.usage.prompt_tokens


@case
def a_named_tool_streamed():
    chosen = {"type": "function", "function": {"name": "get_weather"}}
    chunks = list(
        client.chat.completions.create(
            model="edgelora-tiny", messages=ASK, tools=[WEATHER], tool_choice=chosen, stream=True,
            parallel_tool_calls=False,
        )
    )  # fmt: skip
    calls = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or ()]
    assert calls[0].id and calls[0].function.name == "get_weather"
    assert json.loads("".join(call.function.arguments or "" for call in calls))["town"] in ("Bonn", "Ulm")
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


@case
def no_tool():
    made = client.chat.completions.create(model="medical-faq", messages=ASK, tools=[WEATHER], tool_choice="none")
    assert made.choices[0].message.tool_calls is None and made.choices[0].message.content


@case
def a_parsed_answer():
    parse = (
        client.chat.completions.parse
        if hasattr(client.chat.completions, "parse")
        else client.beta.chat.completions.parse
    )
    made = parse(model="edgelora-tiny", messages=ASK, response_format=Triage)
    assert isinstance(made.choices[0].message.parsed, Triage)


@case
def json_without_a_schema():
    made = client.chat.completions.create(
        model="edgelora-tiny", messages=ASK, response_format={"type": "json_object"}, max_tokens=400
    )
    if made.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(made.choices[0].message.content), dict)
    assert made.choices[0].message.content.lstrip().startswith("{")


@case
def errors():
    ask = client.chat.completions.create
    near = raises(openai.NotFoundError, lambda: ask(model="medical-fak", messages=ASK), code="model_not_found")
    assert "medical-faq" in str(near)
    raises(openai.BadRequestError, lambda: ask(model="sql", messages=[]), param="messages")
    raises(openai.BadRequestError, lambda: ask(model="sql", messages=ASK, temperature=9), param="temperature")
    audio = {"voice": "alloy", "format": "wav"}
    raises(openai.BadRequestError, lambda: ask(model="sql", messages=ASK, audio=audio), param="audio")
    long = [{"role": "user", "content": "word " * 30_000}]
    raises(openai.BadRequestError, lambda: ask(model="sql", messages=long), code="context_length_exceeded")
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {"type": "string"}}}}
    raises(
        openai.BadRequestError,
        lambda: ask(model="sql", messages=ASK, response_format=schema),
        code="unsupported_schema",
    )
    raises(
        openai.InternalServerError,
        lambda: client.embeddings.create(model="sql", input="x"),
        code="embeddings_not_supported",
    )


@case
def responses():
    first = client.responses.create(model="medical-faq", input="What is hypertension?", instructions="Answer.")
    assert MARK in first.output_text and first.status == "completed"
    assert client.responses.retrieve(first.id).output_text == first.output_text
    second = client.responses.create(model="pirate", input="And in your words?", previous_response_id=first.id)
    assert second.usage.input_tokens > first.usage.input_tokens
    items = list(client.responses.input_items.list(first.id))
    assert items[0].content[0].text == "What is hypertension?"
    client.responses.delete(first.id)
    raises(openai.NotFoundError, lambda: client.responses.retrieve(first.id), code="response_not_found")
    if hasattr(client.responses, "input_tokens"):
        counted = client.responses.input_tokens.count(model="medical-faq", input="What is hypertension?")
        assert 0 < counted.input_tokens < first.usage.input_tokens


@case
def streamed_responses():
    events = list(client.responses.create(model="medical-faq", input="What is hypertension?", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created" and events[-1].type == "response.completed"
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert deltas == events[-1].response.output_text and MARK in deltas
    with client.responses.stream(model="medical-faq", input="What is hypertension?") as stream:
        assert MARK in stream.get_final_response().output_text


@case
def background_responses():
    made = client.responses.create(model="medical-faq", input="What is hypertension?", background=True)
    ended = until(lambda: client.responses.retrieve(made.id), lambda one: one.status != "in_progress")
    assert ended.status == "completed" and MARK in ended.output_text
    assert client.responses.cancel(made.id).status == "completed"


@case
def responses_with_tools():
    tool = {"type": "function", "strict": True, **WEATHER["function"]}
    first = client.responses.create(
        model="edgelora-tiny", input="Rain?", tools=[tool], tool_choice="required", parallel_tool_calls=False
    )
    call = first.output[0]
    assert call.type == "function_call" and json.loads(call.arguments)["town"] in ("Bonn", "Ulm")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}
    second = client.responses.create(
        model="edgelora-tiny", input=[result], previous_response_id=first.id, max_output_tokens=4, tools=[tool]
    )
    assert second.usage.input_tokens > first.usage.input_tokens
    events = list(
        client.responses.create(
            model="edgelora-tiny", input="Rain?", tools=[tool], tool_choice="required", stream=True,
            parallel_tool_calls=False,
        )
    )  # fmt: skip
    kinds = [event.type for event in events]
    assert "response.function_call_arguments.delta" in kinds and kinds[-1] == "response.completed"
    done = next(event for event in events if event.type == "response.function_call_arguments.done")
    assert done.arguments == events[-1].response.output[0].arguments


@case
def parsed_responses():
    made = client.responses.parse(model="edgelora-tiny", input="Triage.", text_format=Triage)
    assert isinstance(made.output_parsed, Triage)


@case
def files_and_deleting():
    raises(openai.AuthenticationError, lambda: client.files.list())
    file = manager.files.create(file=ARCHIVE, purpose="fine-tune")
    assert file.id in [one.id for one in manager.files.list()] and manager.files.retrieve(file.id).bytes == file.bytes
    name = f"openai-{MAJOR}"
    job = manager.post("/adapters", cast_to=object, body={"name": name, "file_id": file.id})
    job = until(
        lambda: manager.get(f"/jobs/{job['id']}", cast_to=object),
        lambda one: one["status"] not in ("queued", "running"),
    )
    assert job["status"] == "succeeded", job
    assert MARK in client.chat.completions.create(model=name, messages=ASK).choices[0].message.content
    raises(openai.AuthenticationError, lambda: client.models.delete(name))
    assert manager.models.delete(name).deleted and manager.files.delete(file.id).deleted
    raises(openai.NotFoundError, lambda: client.models.retrieve(name))


main()
