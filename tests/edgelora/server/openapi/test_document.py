"""The published document tells what the application does: its routes, the fields it takes, the replies it gives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.routing import Route

from edgelora.server.api.openai.tokenize import TokenizeBody
from edgelora.server.app import build_app
from edgelora.server.http.endpoint import Operation
from edgelora.server.http.options import ServerOptions
from edgelora.server.openapi.api import API
from edgelora.server.openapi.management import MANAGEMENT
from tests.support.server import RunningServer, serving
from tests.support.service import FakeService

Schema = dict[str, Any]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("adapters")
    with FakeService(folder, adapters={"a": "Yes."}) as service, serving(service) as running:
        yield running


@pytest.fixture(scope="module")
def document(server: RunningServer) -> Schema:
    published: Schema = server.request("GET", "/openapi.json").json
    return published


def test_every_route_is_in_it_and_it_has_no_other(tmp_path: Path, document: Schema) -> None:
    """By method and path; what stands under /openai/v1 stands under /v1 and is told of once."""
    with FakeService(tmp_path, adapters={}) as service:
        routes = [route for route in build_app(service, ServerOptions()).routes if isinstance(route, Route)]
    served = {
        (method, re.sub(r":\w+}", "}", route.path.removeprefix("/openai")))
        for route in routes
        for method in (route.methods or ()) - {"HEAD"}
    }
    told = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert told == served


def test_it_is_an_openapi_document(document: Schema) -> None:
    """Every reference leads somewhere, every operation has a name of its own, every path parameter is declared."""
    schemas = document["components"]["schemas"]
    refs = set(re.findall(r'"#/components/schemas/(\w+)"', msgspec.json.encode(document).decode()))
    assert document["openapi"] == "3.1.0" and refs == set(schemas)
    operations = [(path, one) for path, methods in document["paths"].items() for one in methods.values()]
    assert len({one["operationId"] for _, one in operations}) == len(operations)
    for path, one in operations:
        declared = {parameter["name"] for parameter in one.get("parameters", ()) if parameter["in"] == "path"}
        assert declared == set(re.findall(r"\{(\w+)\}", path))


SAMPLES: Schema = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "input": "Hi"}
"""What right bodies have in common with the server."""
INSTEAD = {"adapters": [{"name": "a"}], "previous_response_id": None, "max_tokens": 2, "max_completion_tokens": 2}
TOGETHER: dict[str, Schema] = {
    "stream_options": {"stream": True},
    "top_logprobs": {"logprobs": True, "include": ["message.output_text.logprobs"]},
}
"""Fields that are only right beside others."""


def _sample(schema: Schema, schemas: Schema) -> Any:
    """Some right value."""
    if "$ref" in schema:
        target = schemas[schema["$ref"].rpartition("/")[2]]
        return {name: _sample(target["properties"][name], schemas) for name in target.get("required", ())}
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return _sample(schema[key][0], schemas)
    if "enum" in schema:
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    match schema.get("type"):
        case "string":
            return "x" * schema.get("minLength", 1)
        case "integer" | "number":
            return max(1, schema.get("minimum", 1))
        case "boolean":
            return False
        case "array":
            return [_sample(schema.get("items", {}), schemas)] * schema.get("minItems", 1)
        case "object":
            return {}
        case _:
            return None


def _body(operation: Operation, name: str, document: Schema) -> Schema:
    """The least that is needed, and this field with a value that the document allows."""
    schemas = document["components"]["schemas"]
    request = document["paths"][operation.path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    schema = schemas[request["$ref"].rpartition("/")[2]]
    body = {field: SAMPLES.get(field, _sample(schema["properties"][field], schemas)) for field in schema["required"]}
    if operation.body is TokenizeBody and name not in ("prompt", "messages", "content"):
        body["prompt"] = "Hi"
    fields = operation.body.__struct_fields__
    known = {**SAMPLES, **INSTEAD} if name in fields else {}
    value = known.get(name, _sample(schema["properties"][name], schemas))
    beside = {key: one for key, one in TOGETHER.get(name, {}).items() if key in fields}
    return {**body, name: value, **beside}


TAKING = [one for one in API if one.body is not None and one not in MANAGEMENT]
"""Those that manage need a token, and something to manage: their own tests send them."""


@pytest.mark.parametrize("operation", TAKING, ids=lambda one: one.name)
def test_each_documented_field_is_accepted(server: RunningServer, document: Schema, operation: Operation) -> None:
    """One after another, each with a value that the document allows; those too that are not supported."""
    for name in (*operation.body.__struct_fields__, *operation.inert):
        body = _body(operation, name, document)
        reply = server.post(operation.path, body)
        assert reply.status == operation.status, (body, reply.body)


CHAT: Schema = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
REPLIES = [
    ("listModels", {}),
    ("retrieveModel", {}),
    ("health", {}),
    ("status", {}),
    ("ready", {}),
    ("createChatCompletion", CHAT),
    ("createCompletion", {"model": "tiny", "prompt": "Hi"}),
    ("createResponse", {"model": "tiny", "input": "Hi"}),
    ("tokenize", {"prompt": "Hi"}),
    ("detokenize", {"tokens": [72]}),
    ("countChatTokens", CHAT),
]


@pytest.mark.parametrize(("name", "body"), REPLIES, ids=lambda value: value if isinstance(value, str) else "")
def test_replies_have_the_documented_fields_and_no_others(server: RunningServer, name: str, body: Schema) -> None:
    """Read as the documented type and written again, a reply is what it was."""
    operation = next(one for one in API if one.name == name)
    path = operation.path.replace("{id}", "a")
    reply = server.post(path, body) if operation.method == "POST" else server.request(operation.method, path)
    assert reply.status == 200
    assert msgspec.to_builtins(msgspec.json.decode(reply.body, type=operation.reply)) == reply.json


def test_refusals_have_the_documented_shape(server: RunningServer) -> None:
    """The one shape of all errors."""
    from edgelora.server.openapi.replies import ErrorReply

    reply = server.post("/v1/chat/completions", {"model": "nobody", "messages": CHAT["messages"]})
    assert msgspec.to_builtins(msgspec.json.decode(reply.body, type=ErrorReply)) == reply.json
