"""The OpenAPI document, made of the endpoints and of msgspec's types, with which the server parses and writes. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from edgelora.server.http.endpoint import EVENTS, JSON, Access, Endpoint, Inert, Media
from edgelora.server.http.error_types import ErrorReply

Schema = dict[str, Any]

_REF = "#/components/schemas/{name}"
_EVENTS_ABOUT = "Server-sent events, if `stream` is true in the body; the last line is `data: [DONE]`."
_EVENT: Schema = {
    "description": _EVENTS_ABOUT,
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}
"""The schema of one event; OpenAPI 3.1 cannot describe a stream of them."""
_ABOUT = (
    "An on-device LoRA runtime's HTTP API, in OpenAI's shapes: `model` is the base or an adapter by name. The paths of "
    "OpenAI's API and of its relatives exist under /openai/v1 too. Fields that are not listed here are ignored. Fields "
    "that are listed as not supported are refused, unless their value would change nothing."
)
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
_REQUIRED_KEY: list[Schema] = [{"bearer": []}, {"x-api-key": []}]
_OPTIONAL_KEY: list[Schema] = [*_REQUIRED_KEY, {}]
"""A key is needed only where the server requires one."""
_SECURITY: dict[Access, list[Schema]] = {
    Access.OPEN: [],
    Access.SIGNED: [],
    Access.KEY: _OPTIONAL_KEY,
    Access.FULL_KEY: _OPTIONAL_KEY,
    Access.MANAGEMENT: _REQUIRED_KEY,
}


def document(endpoints: Iterable[Endpoint], *, version: str) -> Schema:
    """Return an OpenAPI 3.1 document as plain values.

    Raises ValueError if a type has different schemas in bodies and in replies.
    """
    table = list(endpoints)
    bodies = {endpoint.operation_id: endpoint.body for endpoint in table if _has_json_body(endpoint)}
    replies = {endpoint.operation_id: endpoint.reply for endpoint in table if endpoint.reply is not None}
    body_schemas, body_components = _components(bodies)
    reply_schemas, reply_components = _components({**replies, "": ErrorReply})
    for schema in reply_components.values():
        # The server writes every field, also those that have a default.
        fields, required = schema.get("properties", {}), schema.get("required", ())
        schema["required"] = [name for name, field in fields.items() if name in required or "default" in field]
    paths: dict[str, Schema] = {}
    for endpoint in table:
        body = _with_inert(endpoint, body_schemas, body_components)
        operation = _operation(endpoint, body, reply_schemas)
        paths.setdefault(endpoint.documented_path, {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "edgelora", "version": version, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": _merged(body_components, reply_components), "securitySchemes": _SCHEMES},
    }


def _has_json_body(endpoint: Endpoint) -> bool:
    return endpoint.media is Media.JSON and endpoint.body is not None


def _components(types: Mapping[str, Any]) -> tuple[dict[str, Schema], dict[str, Schema]]:
    """Return the types' schemas by operation id, and the schemas that they refer to by name."""
    schemas, components = msgspec.json.schema_components(types.values(), ref_template=_REF)
    return dict(zip(types, schemas, strict=True)), components


def _merged(bodies: dict[str, Schema], replies: dict[str, Schema]) -> dict[str, Schema]:
    for name in bodies.keys() & replies.keys():
        if bodies[name] != replies[name]:
            raise ValueError(f"the schema {name} is not the same in bodies and in replies")
    return dict(sorted({**bodies, **replies}.items()))


def _with_inert(endpoint: Endpoint, schemas: Mapping[str, Schema], components: dict[str, Schema]) -> Schema | None:
    """Return the body's schema, after adding the unsupported fields to its component."""
    schema = schemas.get(endpoint.operation_id)
    if schema is not None and endpoint.inert:
        properties = components[schema["$ref"].rpartition("/")[2]]["properties"]
        properties.update({name: value for name, value in _inert(endpoint.inert) if name not in properties})
    return schema


def _inert(inert: Inert) -> Iterator[tuple[str, Schema]]:
    for name, accepted in inert.items():
        yield (
            name,
            {
                "enum": [*accepted, None],
                "description": "Not supported: these values are accepted because they change nothing.",
            },
        )


def _operation(endpoint: Endpoint, body: Schema | None, replies: Mapping[str, Schema]) -> Schema:
    reply = {"schema": replies.get(endpoint.operation_id, {"type": "string"})}
    content: Schema = {endpoint.reply_media: reply}
    if endpoint.streamed:
        content[EVENTS] = {"schema": _EVENT}
    refused = {"description": "Refused", "content": {JSON: {"schema": replies[""]}}}
    operation: Schema = {
        "operationId": endpoint.operation_id,
        "summary": endpoint.summary,
        "responses": {
            str(endpoint.status): {"description": endpoint.summary, "content": content},
            "4XX": refused,
            "5XX": {**refused, "description": "Failed, or temporarily unavailable"},
        },
        "security": _SECURITY[endpoint.access],
    }
    if parameters := [*_path_parameters(endpoint.documented_path), *_query_parameters(endpoint)]:
        operation["parameters"] = parameters
    if request := _request(endpoint, body):
        operation["requestBody"] = {"required": True, "content": request}
    return operation


def _request(endpoint: Endpoint, body: Schema | None) -> Schema | None:
    if body is not None:
        return {JSON: {"schema": body}}
    if endpoint.media is Media.FORM:
        return {str(endpoint.media): {"schema": dict(endpoint.body)}}
    if endpoint.media is Media.BYTES:
        return {str(endpoint.media): {"schema": {"type": "string", "format": "binary"}}}
    return None


def _path_parameters(path: str) -> Iterator[Schema]:
    for name in re.findall(r"\{(\w+)\}", path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _query_parameters(endpoint: Endpoint) -> Iterator[Schema]:
    for parameter in endpoint.query:
        yield {
            "name": parameter.name,
            "in": "query",
            "description": parameter.description,
            "schema": dict(parameter.schema),
        }
