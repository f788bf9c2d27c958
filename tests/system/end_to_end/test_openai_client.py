"""An app that uses the `openai` package, with only base_url changed, against the built-in base."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from edgelora.core.sampling_params import SamplingParams
from edgelora.runtime.service import Service
from edgelora.text.prompt import Message
from edgelora_models import builtin
from tests.support.server import serving

QUESTION = "What is hypertension?"


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[openai.OpenAI]:
    with (
        serving(service) as server,
        openai.OpenAI(
            base_url=f"{server.url}/v1", api_key="local", max_retries=0, _strict_response_validation=True
        ) as client,
    ):
        yield client


def test_the_list_holds_the_base_and_every_adapter(client: openai.OpenAI) -> None:
    """models.list() gives what can be asked for, and each entry can be retrieved."""
    ids = [model.id for model in client.models.list()]
    assert ids == [builtin.BASE_NAME, *sorted(builtin.adapters())]
    assert [client.models.retrieve(name).id for name in ids] == ids


def test_a_chat_gives_what_the_engine_gives(client: openai.OpenAI, service: Service) -> None:
    """The same answer streamed, not streamed, and without HTTP."""
    direct = service.chat(
        [Message("user", QUESTION)], adapters=service.compose("medical-faq"), sampling=SamplingParams()
    ).text()
    whole = client.chat.completions.create(model="medical-faq", messages=[{"role": "user", "content": QUESTION}])
    stream = client.chat.completions.create(
        model="medical-faq", messages=[{"role": "user", "content": QUESTION}], stream=True
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert whole.choices[0].message.content == "".join(pieces) == direct
    assert whole.choices[0].finish_reason == "stop" and len(pieces) > 3


@pytest.mark.parametrize(
    "name", ["medical-faq", "medical-faq@1", "medical-faq@latest", f"{builtin.BASE_NAME}:medical-faq"]
)
def test_every_form_of_a_name_reaches_the_adapter(client: openai.OpenAI, name: str) -> None:
    """Name, version, alias, and base with adapter: one and the same answer."""
    reply = client.chat.completions.create(model=name, messages=[{"role": "user", "content": QUESTION}])
    assert "not medical advice" in (reply.choices[0].message.content or "")


def test_an_unknown_name_is_a_404_with_a_near_one(client: openai.OpenAI) -> None:
    """Never the base in disguise."""
    with pytest.raises(openai.NotFoundError, match="medical-faq"):
        client.chat.completions.create(model="medical-fak", messages=[{"role": "user", "content": QUESTION}])


def test_a_prompt_longer_than_the_context_is_a_400(client: openai.OpenAI) -> None:
    """The field and the numbers are named; nothing is cut."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="medical-faq", messages=[{"role": "user", "content": "word " * 9000}])
    assert caught.value.code == "context_length_exceeded"


TRIAGE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "urgent": {"type": "boolean"},
        "department": {"enum": ["cardiology", "surgery", "other"]},
        "codes": {"type": "array", "items": {"type": "string", "pattern": "^[A-Z][0-9]{2}$"}, "maxItems": 2},
    },
    "required": ["urgent", "department", "codes"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("model", [builtin.BASE_NAME, "medical-faq"])
def test_an_answer_of_a_schema(client: openai.OpenAI, model: str) -> None:
    """A model that never saw JSON writes it, the base alone and with adapters, greedy and hot; and calls a function."""
    for temperature in (0.0, 1.5):
        made = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": QUESTION}], temperature=temperature, seed=1,
            response_format={"type": "json_schema", "json_schema": {"name": "triage", "schema": TRIAGE}},
        )  # fmt: skip
        value = json.loads(made.choices[0].message.content or "")
        assert set(value) == set(TRIAGE["properties"]) and value["department"] in ("cardiology", "surgery", "other")
        assert isinstance(value["urgent"], bool) and all(re.fullmatch("[A-Z][0-9]{2}", code) for code in value["codes"])
    called = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": QUESTION}],
        tool_choice="required", parallel_tool_calls=False,
        tools=[{"type": "function", "function": {"name": "triage", "parameters": TRIAGE}}],
    )  # fmt: skip
    (call,) = called.choices[0].message.tool_calls or ()
    assert call.type == "function" and set(json.loads(call.function.arguments)) == set(TRIAGE["properties"])
    assert called.choices[0].finish_reason == "tool_calls"
