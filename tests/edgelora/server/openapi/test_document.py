"""The published document describes the application: its routes, the fields it takes, the replies it gives."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgelora.server.api.openai.tokenize import TokenizeBody
from edgelora.server.http.endpoint import Access, Endpoint
from edgelora.server.http.error_types import ErrorReply
from tests.support.endpoints import app_routes, documented_endpoints
from tests.support.server import RunningServer

Schema = dict[str, Any]


@pytest.fixture(scope="module")
def adapters() -> Mapping[str, str | None]:
    return {"a": "Yes."}


@pytest.fixture(scope="module")
def document(server: RunningServer) -> Schema:
    published: Schema = server.request("GET", "/openapi.json").json
    return published


def test_every_route_is_in_it_and_it_has_no_other(tmp_path: Path, document: Schema) -> None:
    """Every method and path is described once; paths under /openai are described without that prefix."""
    served = {
        (method, re.sub(r":\w+}", "}", route.path.removeprefix("/openai")))
        for route in app_routes(tmp_path)
        for method in (route.methods or ()) - {"HEAD"}
    }
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert described == served


def test_it_is_an_openapi_document(document: Schema) -> None:
    """Every reference leads somewhere, every operation has a name of its own, every path parameter is declared."""
    schemas = document["components"]["schemas"]
    refs = set(re.findall(r'"#/components/schemas/(\w+)"', msgspec.json.encode(document).decode()))
    assert document["openapi"] == "3.1.0" and refs == set(schemas)
    operations = [(path, operation) for path, methods in document["paths"].items() for operation in methods.values()]
    assert len({operation["operationId"] for _, operation in operations}) == len(operations)
    for path, operation in operations:
        declared = {parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "path"}
        assert declared == set(re.findall(r"\{(\w+)\}", path))


SAMPLES: Schema = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "input": "Hi"}
"""Values for fields of valid bodies."""
INSTEAD = {
    "adapters": [{"name": "a"}],
    "adapter": "a",
    "adapter_id": "a",
    "previous_response_id": None,
    "max_tokens": 2,
    "max_completion_tokens": 2,
    "n_predict": 2,
    "max_new_tokens": 2,
    "add_generation_prompt": None,
}
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


def _body(endpoint: Endpoint, name: str, document: Schema) -> Schema:
    """The least that is needed, and this field with a value that the document allows."""
    schemas = document["components"]["schemas"]
    request = document["paths"][endpoint.documented_path]["post"]["requestBody"]["content"]["application/json"][
        "schema"
    ]
    schema = schemas[request["$ref"].rpartition("/")[2]]
    body = {field: SAMPLES.get(field, _sample(schema["properties"][field], schemas)) for field in schema["required"]}
    if endpoint.body is TokenizeBody and name not in ("prompt", "messages", "content"):
        body["prompt"] = "Hi"
    fields = endpoint.body.__struct_fields__
    samples = {**SAMPLES, **INSTEAD} if name in fields else {}
    value = samples.get(name, _sample(schema["properties"][name], schemas))
    beside = {key: value_beside for key, value_beside in TOGETHER.get(name, {}).items() if key in fields}
    return {**body, name: value, **beside}


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Endpoint]:
    """By operation id."""
    documented = documented_endpoints(tmp_path_factory.mktemp("app"))
    return {endpoint.operation_id: endpoint for endpoint in documented}


WITH_BODY = (
    *("createChatCompletion", "countChatTokens", "createCompletion", "createEmbedding"),
    *("createResponse", "countResponseTokens", "cancelResponse"),
    *("tokenize", "detokenize", "v1tokenize", "v1detokenize"),
)


def test_every_body_of_an_application_is_tried(endpoints: dict[str, Endpoint]) -> None:
    """Management needs a token, and something to manage: its own tests send those bodies."""
    taking = {e.operation_id for e in endpoints.values() if e.body is not None and e.access is not Access.MANAGEMENT}
    assert taking == set(WITH_BODY)


@pytest.mark.parametrize("name", WITH_BODY)
def test_each_documented_field_is_accepted(
    server: RunningServer, document: Schema, endpoints: dict[str, Endpoint], name: str
) -> None:
    """Each field is sent with a value that the document allows, unsupported fields too."""
    endpoint = endpoints[name]
    for field in (*endpoint.body.__struct_fields__, *endpoint.inert):
        body = _body(endpoint, field, document)
        reply = server.post(endpoint.path, body)
        assert reply.status == endpoint.status, (body, reply.body)


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
def test_replies_have_the_documented_fields_and_no_others(
    server: RunningServer, endpoints: dict[str, Endpoint], name: str, body: Schema
) -> None:
    """Read as the documented type and written again, a reply is what it was."""
    endpoint = endpoints[name]
    path = endpoint.documented_path.replace("{id}", "a")
    reply = server.post(path, body) if endpoint.method == "POST" else server.request(endpoint.method, path)
    assert reply.status == 200
    assert msgspec.to_builtins(msgspec.json.decode(reply.body, type=endpoint.reply)) == reply.json


def test_refusals_have_the_documented_shape(server: RunningServer) -> None:
    """The one shape of all errors."""
    reply = server.post("/v1/chat/completions", {"model": "nobody", "messages": CHAT["messages"]})
    assert msgspec.to_builtins(msgspec.json.decode(reply.body, type=ErrorReply)) == reply.json
