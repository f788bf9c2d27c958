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


@pytest.mark.parametrize(
    ("fields", "status", "param", "code"),
    [
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
