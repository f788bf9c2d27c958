"""The real openai client, strict about every shape, works by changing the base URL."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.support.openai_client import openai_client
from tests.support.server import RunningServer
from tests.support.service import CREATED, FakeService

ASKED: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "What is hypertension?"}]


@pytest.fixture(scope="module", params=["/v1", "/openai/v1"])
def client(server: RunningServer, request: pytest.FixtureRequest) -> Iterator[openai.OpenAI]:
    with openai_client(server, request.param) as client:
        yield client


def test_models_list(client: openai.OpenAI) -> None:
    """The base and every adapter are models; adapters name their parent, and root is never a path."""
    models = {model.id: model for model in client.models.list()}
    assert list(models) == ["tiny", "letters", "me/a:v1", "medical-faq"]
    assert all(model.created == CREATED and model.owned_by == "edgelora" for model in models.values())
    extra = models["medical-faq"].model_extra or {}
    assert extra["parent"] == "tiny" and extra["root"].startswith("medical-faq@")
    assert extra["resident"] in (True, False) and extra["pinned"] is False
    assert (models["tiny"].model_extra or {})["parent"] is None


def test_together_gets_the_list_it_knows(server: RunningServer) -> None:
    """Its 2.x client takes a bare array; every other one takes OpenAI's list of the same entries."""
    bare = server.request("GET", "/v1/models", headers={"User-Agent": "AsyncTogether/Python 2.42.0"}).json
    listed = server.request("GET", "/v1/models", headers={"User-Agent": "OpenAI/Python 2.42.0"}).json
    assert bare == [{**model, "type": "chat"} for model in listed["data"]]


@pytest.mark.parametrize("name", ["tiny", "medical-faq", "me/a:v1"])
def test_models_retrieve(client: openai.OpenAI, name: str) -> None:
    """Any id the list gives can be retrieved, slashes and colons included."""
    assert client.models.retrieve(name).id == name


@pytest.mark.parametrize(("model", "answer"), [
    ("tiny", "Hello from the base."),
    ("medical-faq", "Hypertension is high blood pressure."),
    ("tiny:medical-faq", "Hypertension is high blood pressure."),
    ("me/a:v1", "A name with a slash and a colon."),
])  # fmt: skip
def test_chat(client: openai.OpenAI, model: str, answer: str) -> None:
    """The model named is the one that answers, and usage counts both sides."""
    made = client.chat.completions.create(model=model, messages=ASKED)
    assert made.id.startswith("chatcmpl-") and made.model == model and (made.system_fingerprint or "").startswith("fp_")
    assert made.choices[0].message.content == answer and made.choices[0].message.role == "assistant"
    assert made.choices[0].finish_reason == "stop"
    assert made.usage is not None and made.usage.prompt_tokens > 0
    assert made.usage.completion_tokens >= len(answer)
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens


def test_the_fingerprint_changes_with_the_adapter(client: openai.OpenAI) -> None:
    """Two adapters never claim to be the same system; one adapter always does."""
    prints = [
        client.chat.completions.create(model=model, messages=ASKED).system_fingerprint
        for model in ("tiny", "medical-faq", "medical-faq")
    ]
    assert prints[0] != prints[1] == prints[2]


def test_chat_stream(client: openai.OpenAI) -> None:
    """The chunks add up to the answer: role first, reason last, one id throughout."""
    with client.chat.completions.create(model="medical-faq", messages=ASKED, stream=True) as stream:
        chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].choices[0].delta.content == ""
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == "Hypertension is high blood pressure." and len(chunks) > 5
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:]] == [None, "stop"]
    assert len({chunk.id for chunk in chunks}) == 1 and all(chunk.usage is None for chunk in chunks)


def test_chat_stream_with_usage(client: openai.OpenAI) -> None:
    """With include_usage the last chunk has no choices and the same numbers as an answer given whole."""
    unstreamed = client.chat.completions.create(model="medical-faq", messages=ASKED)
    with client.chat.completions.create(
        model="medical-faq", messages=ASKED, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    assert chunks[-1].choices == [] and chunks[-1].usage == unstreamed.usage
    assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in chunks[:-1])


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_the_length_is_limited(client: openai.OpenAI, limit: str) -> None:
    """Both names of the limit end the answer there, and say so."""
    made = client.chat.completions.create(model="medical-faq", messages=ASKED, extra_body={limit: 5})
    assert made.choices[0].finish_reason == "length" and made.choices[0].message.content == "Hyper"
    assert made.usage is not None and made.usage.completion_tokens == 5


@pytest.mark.parametrize("stop", [" high", ["never", " high"]])
def test_stop_strings(client: openai.OpenAI, stop: str | list[str]) -> None:
    """The answer ends before the first stop string it meets."""
    made = client.chat.completions.create(model="medical-faq", messages=ASKED, stop=stop)
    assert made.choices[0].message.content == "Hypertension is" and made.choices[0].finish_reason == "stop"


def test_every_sampling_field_reaches_the_runtime(client: openai.OpenAI, service: FakeService) -> None:
    """Fields of the request replace the base's defaults; all others keep them."""
    client.chat.completions.create(
        model="tiny", messages=ASKED, temperature=0.5, top_p=0.9, seed=-1, stop="x", max_tokens=7,
        extra_body={"top_k": 4, "min_p": 0.1, "repeat_penalty": 1.1},
    )  # fmt: skip
    used = service.samplings[-1]
    assert (used.temperature, used.top_p, used.top_k, used.min_p, used.repeat_penalty) == (0.5, 0.9, 4, 0.1, 1.1)
    assert (used.seed, used.stop, used.max_tokens) == (2**64 - 1, ("x",), 7)
    client.chat.completions.create(model="tiny", messages=ASKED)
    assert service.samplings[-1] == service.default_sampling()


def test_messages_reach_the_template(client: openai.OpenAI, service: FakeService) -> None:
    """Roles and text parts become the template's; developer is system."""
    client.chat.completions.create(
        model="tiny",
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": "Two"}]},
            {"role": "assistant", "content": "Yes"},
            {"role": "user", "content": "Three é"},
        ],
    )
    prompt = bytes(token for token in service.prompts[-1] if token < 256).decode()
    assert prompt == "system\n\nBe brief.user\n\nOne\nTwoassistant\n\nYesuser\n\nThree éassistant\n\n"


@pytest.mark.parametrize("prompt", ["Once", ["Once"], [79, 110, 99, 101], [[79, 110, 99, 101]]])
def test_completions(client: openai.OpenAI, service: FakeService, prompt: str | list[str]) -> None:
    """A text, a list of one text and token ids are continued as they stand, 16 tokens far by default."""
    made = client.completions.create(model="medical-faq", prompt=prompt)
    assert made.id.startswith("cmpl-") and made.choices[0].text == "Hypertension is "
    assert made.choices[0].finish_reason == "length" and made.usage is not None
    assert made.usage.completion_tokens == 16
    assert bytes(token for token in service.prompts[-1] if token < 256) == b"Once"


def test_cached_tokens(client: openai.OpenAI) -> None:
    """A prompt asked again is not computed again, and usage says so where OpenAI's does, in both APIs."""
    for _ in range(2):
        chat = client.chat.completions.create(model="letters", messages=ASKED, max_tokens=3)
        text = client.completions.create(model="letters", prompt="Once upon a time there was", max_tokens=3)
    for usage in (chat.usage, text.usage):
        assert usage is not None and usage.prompt_tokens_details is not None
        assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens - 1


def test_completions_stream(server: RunningServer) -> None:
    """Text pieces, then the reason, then usage. Not strict: the client's type denies the null reason OpenAI sends."""
    with (
        openai_client(server, strict=False) as client,
        client.completions.create(
            model="medical-faq", prompt="Once", max_tokens=100, stream=True, stream_options={"include_usage": True}
        ) as stream,
    ):
        chunks = list(stream)
    assert "".join(c.choices[0].text for c in chunks[:-1]) == "Hypertension is high blood pressure."
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage is not None


def test_an_unknown_model(client: openai.OpenAI) -> None:
    """An unknown name is NotFoundError with the near names, never the base in disguise."""
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="medical-fqa", messages=ASKED)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert caught.value.type == "invalid_request_error" and "'medical-faq'" in caught.value.message
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no/such")


def test_an_unsupported_field(client: openai.OpenAI) -> None:
    """A known field that is not honoured is BadRequestError naming it, never silence."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=ASKED, web_search_options={})
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "web_search_options")


def test_a_prompt_over_the_context(client: openai.OpenAI) -> None:
    """A prompt that does not fit is refused by the name the clients look for, with the field that holds it."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "x" * 5000}])
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt="x" * 5000)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")


def test_an_unknown_route(client: openai.OpenAI) -> None:
    """Routes that do not exist are NotFoundError with an error object too."""
    with pytest.raises(openai.NotFoundError) as caught:
        client.moderations.create(model="tiny", input="x")
    assert caught.value.code == "unknown_url"


def test_a_body_over_the_cap(client: openai.OpenAI) -> None:
    """The client reads the 413, although it had to stop sending."""
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "x" * (9 << 20)}])
    assert (caught.value.status_code, caught.value.code) == (413, "body_too_large")
