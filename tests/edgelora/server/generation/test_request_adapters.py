"""`adapters` in a request: several at once, by weight; whatever is wrong names its field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from edgelora.core.errors import AdapterIncompatible
from edgelora.core.request import AdapterRef
from tests.support.server import Reply, RunningServer
from tests.support.service import FakeService

YES, ARR = {"name": "medical-faq", "weight": 0.75}, {"name": "pirate", "weight": 0.25}


class OtherBases(FakeService):
    def resolve(self, model_id: str) -> AdapterRef | None:
        if model_id == "elsewhere":
            raise AdapterIncompatible("adapter_shape", "It was made for another base.")
        return super().resolve(model_id)


@pytest.fixture(scope="module")
def adapters() -> Mapping[str, str | None]:
    return {"medical-faq": "Yes.", "pirate": "Arr.", **{f"a{n}": "x" for n in range(8)}}


@pytest.fixture(scope="module")
def service(folder: Path, adapters: Mapping[str, str | None]) -> Iterator[FakeService]:
    with OtherBases(folder, adapters=adapters) as service:
        yield service


def ask(server: RunningServer, **fields: Any) -> Reply:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], **fields}
    return server.post("/v1/chat/completions", body)


def answer_of(reply: Reply) -> str:
    assert reply.status == 200, reply.body
    return str(reply.json["choices"][0]["message"]["content"])


@pytest.mark.parametrize("model", ["tiny", "medical-faq", "pirate", "tiny:pirate"])
def test_several_act_at_once(server: RunningServer, model: str) -> None:
    """In any order, with `model` naming the base or one of them."""
    expected = "Arr.*0.25 + Yes.*0.75"
    for adapters in ([YES, ARR], [ARR, YES]):
        assert answer_of(ask(server, model=model, adapters=adapters)) == expected


def test_completions_take_them_too(server: RunningServer) -> None:
    """The same field, the same meaning."""
    reply = server.post("/v1/completions", {"model": "tiny", "prompt": "Hi", "adapters": [YES, ARR], "max_tokens": 40})
    assert reply.json["choices"][0]["text"] == "Arr.*0.25 + Yes.*0.75"


def test_what_is_not_there(server: RunningServer) -> None:
    """No weight is 1; weight 0, an empty list and null change nothing."""
    assert answer_of(ask(server, adapters=[{"name": "pirate"}])) == "Arr."
    assert answer_of(ask(server, adapters=[{"name": "pirate"}, {**YES, "weight": 0}])) == "Arr."
    for nothing in ([], None):
        assert answer_of(ask(server, adapters=nothing)) == "Hello from the base."
    assert answer_of(ask(server, model="pirate", adapters=None)) == "Arr."
    assert answer_of(ask(server, model="pirate", adapters=[{"name": "pirate", "weight": 0}])) == "Hello from the base."


def test_the_fingerprint_names_the_composition(server: RunningServer) -> None:
    """Another weight is another model to a client that compares; another order is not."""

    def fingerprint(*adapters: dict[str, Any]) -> str:
        return str(ask(server, adapters=list(adapters)).json["system_fingerprint"])

    assert fingerprint(YES, ARR) == fingerprint(ARR, YES)
    assert len({fingerprint(YES, ARR), fingerprint(YES, {**ARR, "weight": 0.5}), fingerprint(YES), fingerprint()}) == 4


@pytest.mark.parametrize("field", ["adapter_id", "adapter"])
@pytest.mark.parametrize("model", ["tiny", "pirate", "tiny:pirate"])
def test_another_servers_field_may_name_the_adapter(server: RunningServer, field: str, model: str) -> None:
    """As `model` would, beside the base or the same adapter: the reply, streamed or not, says who answered."""
    as_model = ask(server, model="pirate").json
    reply = ask(server, model=model, **{field: "pirate"})
    assert answer_of(reply) == "Arr."
    assert (reply.json["model"], reply.json["system_fingerprint"]) == ("pirate", as_model["system_fingerprint"])
    assert b'"model":"pirate"' in ask(server, model=model, stream=True, **{field: "pirate"}).body
    assert answer_of(ask(server, model=model, **{field: "pirate"}, adapters=[ARR, YES])) == "Arr.*0.25 + Yes.*0.75"
    for path, body in (("/v1/completions", {"prompt": "Hi"}), ("/v1/responses", {"input": "Hi"})):
        made = server.post(path, {"model": model, field: "pirate", **body})
        assert b"Arr." in made.body and made.json["model"] == "pirate"


def test_no_adapter_is_named(server: RunningServer) -> None:
    """Null counts as left out, and the base's name is the base."""
    for value in (None, "tiny"):
        assert answer_of(ask(server, adapter_id=value, adapter=None)) == "Hello from the base."
    assert answer_of(ask(server, model="pirate", adapter_id=None, lora=None)) == "Arr."


ELSEWHERE = {
    "adapter_name": "pirate",
    "lora": [{"id": 0, "scale": 1}],
    "lora_adapter": "pirate",
    "lora_path": "pirate",
    "lora_request": {"lora_name": "pirate"},
    "adapter_id": ["pirate"],
    "adapter": {"name": "pirate"},
}


@pytest.mark.parametrize("field", ELSEWHERE)
def test_the_base_never_answers_for_an_adapter(server: RunningServer, field: str) -> None:
    """Whatever field names it, on every route; the error says where to put the name."""
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
        "/v1/completions": {"prompt": "Hi"},
        "/v1/responses": {"input": "Hi"},
        "/v1/chat/completions/input_tokens": {"messages": [{"role": "user", "content": "Hi"}]},
    }
    for path, body in bodies.items():
        reply = server.post(path, {"model": "tiny", **body, field: ELSEWHERE[field]})
        assert (reply.status, reply.error["param"]) == (400, field) and "in 'model'" in reply.error["message"]
        unknown = server.post(path, {"model": "tiny", **body, "adapter_id": "pirat"})
        assert (unknown.status, unknown.error["param"]) == (404, "adapter_id")
        assert "'pirate'" in unknown.error["message"]


@pytest.mark.parametrize(
    ("fields", "status", "param", "code"),
    [
        ({"model": "a1", "adapter_id": "pirate"}, 400, "adapter_id", "invalid_value"),
        ({"model": "a1", "adapter_id": "tiny"}, 400, "adapter_id", "invalid_value"),
        ({"adapter_id": "a1", "adapter": "a2"}, 400, "adapter", "invalid_value"),
        ({"adapter_id": "tiny", "adapter": "a2"}, 400, "adapter", "invalid_value"),
        ({"adapter_id": "a1", "adapter": "tiny"}, 400, "adapter", "invalid_value"),
        ({"adapter_id": "a1", "adapters": [YES]}, 400, "adapters", "invalid_value"),
        ({"adapter_id": "elsewhere"}, 400, "adapter_id", "adapter_shape"),
        ({"adapter_id": ""}, 400, "adapter_id", "invalid_value"),
        ({"adapter": "\ud800"}, 400, "adapter", "invalid_value"),
        ({"model": "a1", "adapters": [YES]}, 400, "adapters", "invalid_value"),
        ({"model": "a1", "adapters": []}, 400, "adapters", "invalid_value"),
        ({"adapters": [YES, ARR, YES]}, 400, "adapters", "adapter_twice"),
        ({"adapters": [YES, {"name": "medical-faqs"}]}, 404, "adapters[1].name", "model_not_found"),
        ({"adapters": [YES, {"name": "elsewhere"}]}, 400, "adapters[1].name", "adapter_shape"),
        ({"adapters": [{"name": "tiny"}]}, 400, "adapters[0].name", "invalid_value"),
        ({"adapters": [{"name": ""}]}, 400, "adapters[0].name", "invalid_value"),
        ({"adapters": [{"name": "pirate", "weight": 4.5}]}, 400, "adapters[0].weight", "invalid_value"),
        ({"adapters": [{"name": "pirate", "weight": -5}]}, 400, "adapters[0].weight", "invalid_value"),
        ({"adapters": [{"name": "pirate", "weight": "1"}]}, 400, "adapters[0].weight", "invalid_type"),
        ({"adapters": [{"name": "pirate", "wieght": 1}]}, 400, "adapters[0]", "invalid_value"),
        ({"adapters": [{"weight": 1}]}, 400, "adapters[0].name", "missing_required_parameter"),
        ({"adapters": "pirate"}, 400, "adapters", "invalid_type"),
        ({"adapters": [{"name": f"a{n}"} for n in range(8)] + [YES]}, 400, "adapters", "invalid_value"),
        ({"adapters": [{"name": f"a{n}"} for n in range(5)]}, 400, None, "too_many_adapters"),
    ],
)
def test_what_is_wrong_is_named(
    server: RunningServer, fields: dict[str, Any], status: int, param: str | None, code: str
) -> None:
    """Unknown names with near ones, weights out of range, a `model` beside the list: never a guess."""
    reply = ask(server, **fields)
    assert (reply.status, reply.error["param"], reply.error["code"]) == (status, param, code)
    assert code != "model_not_found" or "'medical-faq'" in reply.error["message"]


@pytest.mark.parametrize("weight", ["NaN", "Infinity", "1e999"])
def test_weights_are_finite(server: RunningServer, weight: str) -> None:
    """Python's own spelling of no number is no JSON, and no weight."""
    body = b'{"model": "tiny", "prompt": "Hi", "adapters": [{"name": "pirate", "weight": %s}]}'
    assert server.post("/v1/completions", body % weight.encode()).status == 400
