"""The real openai client with keys: each refusal is the exception that applications catch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import openai
import pytest

from edgelora.store.keys.management_token import ensure_token
from edgelora.store.keys.store import KeyStore
from tests.support.openai_client import openai_client
from tests.support.server import TEST_OPTIONS, RunningServer, serving
from tests.support.service import FakeService

ASKED: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def keyed(service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    """A server for whose limits no time passes."""
    monkeypatch.setattr("edgelora.server.auth.gate.monotonic", lambda: 100.0)
    with serving(service, replace(TEST_OPTIONS, secrets=tmp_path)) as running:
        yield running


def test_what_a_key_may_and_may_not(keyed: RunningServer, tmp_path: Path) -> None:
    """Unknown: AuthenticationError. Another adapter: PermissionDeniedError. Beyond its limit: RateLimitError."""
    _, secret = KeyStore(tmp_path).add("a", adapters=("medical-*",), base=False, requests_per_minute=2)
    with openai_client(keyed, key="sk-wrong") as stranger, pytest.raises(openai.AuthenticationError) as unknown:
        stranger.models.list()
    assert unknown.value.code == "invalid_api_key"
    with openai_client(keyed, key=secret) as permitted:
        assert [model.id for model in permitted.models.list()] == ["medical-faq"]
        answer = permitted.chat.completions.with_raw_response.create(model="medical-faq", messages=ASKED)
        assert answer.headers["x-ratelimit-remaining-requests"] == "1" and answer.parse().choices[0].message.content
        with pytest.raises(openai.PermissionDeniedError) as forbidden:
            permitted.chat.completions.create(model="letters", messages=ASKED)
        assert (forbidden.value.code, forbidden.value.param) == ("model_not_allowed", "model")
        with pytest.raises(openai.RateLimitError) as limited:
            permitted.chat.completions.create(model="medical-faq", messages=ASKED)
        assert limited.value.code == "rate_limit_exceeded" and int(limited.value.response.headers["retry-after"]) > 0


@pytest.mark.parametrize("field", ["adapter_id", "adapter"])
def test_another_servers_field_opens_nothing(keyed: RunningServer, tmp_path: Path, field: str) -> None:
    """The adapter that it names must be one that the key may use, whatever `model` names."""
    _, secret = KeyStore(tmp_path).add("a", adapters=("medical-*",))
    with openai_client(keyed, key=secret) as permitted:
        named: dict[str, object] = {field: "medical-faq"}
        made = permitted.chat.completions.create(model="tiny", messages=ASKED, extra_body=named)
        assert made.model == "medical-faq"
        for name in ("letters", "no-such-model"):
            with pytest.raises(openai.PermissionDeniedError) as forbidden:
                permitted.chat.completions.create(model="tiny", messages=ASKED, extra_body={field: name})
            assert (forbidden.value.code, forbidden.value.param) == ("model_not_allowed", field)


def test_the_token_is_a_key_that_manages(keyed: RunningServer, tmp_path: Path) -> None:
    """Files and deletions: refused to what applications are given, open to the token, where the client puts its key."""
    token = ensure_token(tmp_path)
    _, secret = KeyStore(tmp_path).add("a")
    with openai_client(keyed, key=secret) as plain:
        with pytest.raises(openai.PermissionDeniedError) as caught:
            plain.files.create(file=("a.zip", b"PK"), purpose="fine-tune")
        assert caught.value.code == "management_not_allowed"
        with pytest.raises(openai.PermissionDeniedError):
            plain.models.delete("medical-faq")
    with openai_client(keyed, key=token) as owner:
        assert list(owner.files.list()) == []
        with pytest.raises(openai.NotFoundError):
            owner.models.delete("no-such-model")
