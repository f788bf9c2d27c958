"""The Responses API through the real client, strict about every shape."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from edgelora.text.prompt import Message, encode_chat
from tests.support.fake_backend.backend import FakeBackend
from tests.support.server import RunningServer, serving
from tests.support.service import FakeService

ANSWER = "Hypertension is high blood pressure."


def _prompt(service: FakeService, *conversation: tuple[str, str]) -> tuple[int, ...]:
    return encode_chat([Message(role, text) for role, text in conversation], service.tokenizer)


def test_a_text_is_answered(client: openai.OpenAI) -> None:
    """The model named answers; the reply says what it was asked with, and what it cost."""
    made = client.responses.create(
        model="medical-faq", input="What is it?", temperature=0.5, metadata={"a": "b"}, user="ann"
    )
    assert made.id.startswith("resp_") and made.object == "response" and made.status == "completed"
    assert made.output_text == ANSWER and made.output[0].type == "message"
    assert (made.model, made.temperature, made.top_p, made.metadata, made.user) == (
        "medical-faq", 0.5, 1.0, {"a": "b"}, "ann",
    )  # fmt: skip
    assert made.usage is not None and made.usage.output_tokens >= len(ANSWER)
    assert made.usage.total_tokens == made.usage.input_tokens + made.usage.output_tokens


def test_cached_tokens_are_reported(client: openai.OpenAI) -> None:
    """Tokens that an earlier request computed are reused, and the usage reports them."""
    for _ in range(2):
        made = client.responses.create(model="medical-faq", input="A question that is asked twice.")
    assert made.usage is not None and made.usage.input_tokens_details.cached_tokens > 10


def test_instructions_and_items_become_the_conversation(client: openai.OpenAI, service: FakeService) -> None:
    """Instructions first; short items, long ones and earlier answers in their roles; parts on lines of their own."""
    both: list[Any] = [{"type": "output_text", "text": text} for text in "ab"]
    client.responses.create(
        model="tiny",
        instructions="Be brief.",
        input=[
            {"role": "developer", "content": "No jokes."},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {"role": "assistant", "content": both},
            {"role": "user", "content": "And?"},
        ],
    )  # fmt: skip
    system = ("system", "Be brief."), ("system", "No jokes.")
    conversation = ("user", "Hi"), ("assistant", "a\nb"), ("user", "And?")
    assert service.prompts[-1] == _prompt(service, *system, *conversation)


def test_both_prefixes_have_one_memory(server: RunningServer) -> None:
    """Groq's clients find what was answered under OpenAI's prefix, and the other way round."""
    made = server.post("/openai/v1/responses", {"model": "tiny", "input": "Hi"}).json
    assert server.request("GET", f"/v1/responses/{made['id']}").json == made
    assert server.request("DELETE", f"/openai/v1/responses/{made['id']}").json["deleted"] is True


def test_a_response_goes_on_from_another(client: openai.OpenAI, service: FakeService) -> None:
    """Input and answers of all that went before stand in the prompt; their instructions do not."""
    first = client.responses.create(model="medical-faq", input="One?", instructions="Old.")
    second = client.responses.create(model="medical-faq", input="Two?", previous_response_id=first.id)
    third = client.responses.create(
        model="medical-faq", input="Three?", instructions="New.", previous_response_id=second.id
    )
    assert third.previous_response_id == second.id
    conversation = ("user", "One?"), ("assistant", ANSWER), ("user", "Two?"), ("assistant", ANSWER), ("user", "Three?")
    assert service.prompts[-1] == _prompt(service, ("system", "New."), *conversation)
    again = client.responses.create(model="tiny", input="Other?", previous_response_id=first.id)
    assert again.output_text == "Hello from the base."
    assert service.prompts[-1] == _prompt(service, ("user", "One?"), ("assistant", ANSWER), ("user", "Other?"))


def test_an_answer_can_be_sent_back_as_input(client: openai.OpenAI, service: FakeService) -> None:
    """Without the memory: the output items of a reply are input items of the next request."""
    first = client.responses.create(model="medical-faq", input="One?", store=False)
    items: list[Any] = [{"role": "user", "content": "One?"}, *(item.model_dump() for item in first.output)]
    client.responses.create(model="tiny", input=[*items, {"role": "user", "content": "Two?"}], store=False)
    assert service.prompts[-1] == _prompt(service, ("user", "One?"), ("assistant", ANSWER), ("user", "Two?"))


def test_retrieve_delete_and_items(client: openai.OpenAI) -> None:
    """A kept response is the same when asked for; deleted it is unknown, and so is one that was not to be kept."""
    made = client.responses.create(model="medical-faq", input=[{"role": "user", "content": t} for t in "abc"])
    assert client.responses.retrieve(made.id) == made
    items = client.responses.input_items.list(made.id, order="asc", limit=2)
    texts = [item.content[0].text for item in items.data]  # type: ignore[union-attr,attr-defined]
    assert texts == ["a", "b"] and items.has_more
    assert len(list(client.responses.input_items.list(made.id, limit=2))) == 3, "the client turns the pages"
    client.responses.delete(made.id)
    unkept = client.responses.create(model="medical-faq", input="Hi", store=False)
    for gone in (made.id, unkept.id, "resp_never"):
        with pytest.raises(openai.NotFoundError) as caught:
            client.responses.retrieve(gone)
        assert caught.value.code == "response_not_found"
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(model="tiny", input="Hi", previous_response_id=made.id)
    assert caught.value.param == "previous_response_id"


def test_the_limit_makes_it_incomplete(client: openai.OpenAI) -> None:
    """Cut at max_output_tokens: said in the status, in the reason and in the item."""
    made = client.responses.create(model="medical-faq", input="Hi", max_output_tokens=5)
    item: Any = made.output[0]
    assert (made.status, made.output_text, item.status) == ("incomplete", ANSWER[:5], "incomplete")
    assert made.incomplete_details is not None and made.incomplete_details.reason == "max_output_tokens"


ORDER = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
]


@pytest.mark.parametrize(("limit", "end"), [(None, "response.completed"), (3, "response.incomplete")])
def test_the_events_of_a_stream(client: openai.OpenAI, limit: int | None, end: str) -> None:
    """In this order, numbered without a gap, adding up to the response that the last one carries and the memory has."""
    with client.responses.create(model="medical-faq", input="Hi", stream=True, max_output_tokens=limit) as stream:
        events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert list(dict.fromkeys(kinds)) == [*ORDER, end]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    last = events[-1]
    assert last.type in ("response.completed", "response.incomplete") and len(deltas) > 2
    assert "".join(deltas) == last.response.output_text == ANSWER[:limit]
    assert {event.item_id for event in events if event.type == "response.output_text.delta"} == {
        last.response.output[0].id
    }
    assert client.responses.retrieve(last.response.id) == last.response


def test_the_clients_own_stream_helper(client: openai.OpenAI) -> None:
    """responses.stream() of the package, which checks the order as it accumulates."""
    with client.responses.stream(model="medical-faq", input="Hi") as stream:
        final = stream.get_final_response()
    assert final.output_text == ANSWER


def test_bytes_of_a_stream(server: RunningServer) -> None:
    """Each frame names its event; the last line is the one that other clients wait for."""
    reply = server.post("/v1/responses", {"model": "tiny", "input": "Hi", "stream": True})
    frames = reply.body.decode().split("\n\n")
    assert reply.headers["content-type"].startswith("text/event-stream") and frames[-2:] == ["data: [DONE]", ""]
    for frame in frames[:-2]:
        name, data = frame.split("\n")
        assert name == "event: " + json.loads(data.removeprefix("data: "))["type"]


def test_input_tokens_are_counted(client: openai.OpenAI, service: FakeService) -> None:
    """The count includes instructions and earlier responses; the model may be left out."""
    first = client.responses.create(model="medical-faq", input="One?")
    counted = client.responses.input_tokens.count(input="Two?", instructions="New.", previous_response_id=first.id)
    conversation = ("system", "New."), ("user", "One?"), ("assistant", ANSWER), ("user", "Two?")
    assert counted.input_tokens == len(_prompt(service, *conversation))


def test_several_adapters_act(server: RunningServer) -> None:
    """edgelora's own `adapters` means what it means in a chat."""
    body = {"model": "tiny", "input": "Hi", "adapters": [{"name": "medical-faq"}]}
    assert server.post("/v1/responses", body).json["output"][0]["content"][0]["text"] == ANSWER
    refused = server.post("/v1/responses", {**body, "adapters": [{"name": "nobody"}]})
    assert (refused.status, refused.error["param"]) == (404, "adapters[0].name")


@pytest.mark.parametrize(
    ("query", "param"), [("limit=0", "limit"), ("limit=x", "limit"), ("order=up", "order"), ("after=none", "after")]
)
def test_pages_that_cannot_be(server: RunningServer, query: str, param: str) -> None:
    """A query that cannot be right is told by its field."""
    made = server.post("/v1/responses", {"model": "tiny", "input": "Hi"}).json["id"]
    reply = server.request("GET", f"/v1/responses/{made}/input_items?{query}")
    assert (reply.status, reply.error["param"]) == (400, param)
    reply = server.request("GET", f"/v1/responses/{made}?stream=true")
    assert (reply.status, reply.error["code"]) == (400, "unsupported_parameter")


def test_a_failure_in_the_middle_is_an_event(tmp_path: Any) -> None:
    """The client learns that the text so far is not the answer; nothing like it goes into a later prompt."""
    backend = FakeBackend(answers={None: "Hello from the base."})
    with FakeService(tmp_path, adapters={}, backend=backend) as service, serving(service) as server:
        backend.fail_steps = {5}
        with openai.OpenAI(
            base_url=f"{server.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
        ) as client:
            with client.responses.create(model="tiny", input="Hi", stream=True) as stream:
                last = list(stream)[-1]
            assert last.type == "response.failed" and last.response.error is not None
            assert last.response.error.code == "server_error" and last.response.status == "failed"
            with pytest.raises(openai.NotFoundError):
                client.responses.retrieve(last.response.id)
        backend.fail_steps = {len(backend.history) + 5}
        reply = server.post("/v1/responses", {"model": "tiny", "input": "Hi"})
        assert (reply.status, reply.error["code"]) == (500, "fake_failure")
