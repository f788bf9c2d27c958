"""The document, made of the table and of msgspec's types, which are those the server parses and writes with. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from edgelora.server.http.endpoint import EVENTS, JSON, Door, Inert, Operation, rows_of
from edgelora.server.openapi.replies import ErrorReply

Schema = dict[str, Any]

_REF = "#/components/schemas/{name}"
_EVENTS_ABOUT = "Server-sent events, where the body says `stream`; the last line is `data: [DONE]`."
_EVENT: Schema = {
    "description": _EVENTS_ABOUT,
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}
"""Of each event; OpenAPI 3.1 has no word for a stream of them."""
_ABOUT = (
    "An on-device LoRA runtime's HTTP API, in OpenAI's shapes: `model` is the base or an adapter by name. All that "
    "stands under /v1 stands under /openai/v1 too. Fields that are not named here are ignored; those that are named "
    "and not supported are refused unless their value asks for nothing."
)


def document(operations: Iterable[Operation], *, version: str) -> Schema:
    """An OpenAPI 3.1 document as plain values."""
    table = list(operations)
    bodies = {one.name: one.body for one in table if one.body is not None}
    replies = {one.name: one.reply for one in table if one.reply is not None}
    body_schemas, asked = _components(bodies)
    reply_schemas, answered = _components({**replies, "": ErrorReply})
    for schema in answered.values():
        # The server writes every field, also those that have a default.
        fields, required = schema.get("properties", {}), schema.get("required", ())
        schema["required"] = [name for name, one in fields.items() if name in required or "default" in one]
    paths: dict[str, Schema] = {}
    for one in table:
        body = _with_inert(one, body_schemas, asked)
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, body, reply_schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "edgelora", "version": version, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": _merged(asked, answered), "securitySchemes": _SCHEMES},
    }


_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
_SECURITY: dict[Door, list[Schema]] = {
    Door.OPEN: [],
    Door.SIGNED: [],
    Door.KEY: [{"bearer": []}, {"x-api-key": []}, {}],
    Door.TOKEN: [{"bearer": []}, {"x-api-key": []}],
}
"""A key where the server asks for one; always the installation's token, or a key made for it."""


def door_of(one: Operation) -> Door:
    """Raises LookupError where the table of doors was forgotten."""
    return rows_of([one.method], one.path)[one.method].door


def _components(types: Mapping[str, Any]) -> tuple[dict[str, Schema], dict[str, Schema]]:
    """By the types' keys their schemas; by name those that they refer to."""
    schemas, components = msgspec.json.schema_components(types.values(), ref_template=_REF)
    return dict(zip(types, schemas, strict=True)), components


def _merged(asked: dict[str, Schema], answered: dict[str, Schema]) -> dict[str, Schema]:
    for name in asked.keys() & answered.keys():
        if asked[name] != answered[name]:
            raise ValueError(f"the schema {name} is not the same in bodies and in replies")
    return dict(sorted({**asked, **answered}.items()))


def _with_inert(one: Operation, schemas: Mapping[str, Schema], components: dict[str, Schema]) -> Schema | None:
    """The body's schema, its component told of the fields that are known and not supported."""
    schema = schemas.get(one.name)
    if schema is not None and one.inert:
        properties = components[schema["$ref"].rpartition("/")[2]]["properties"]
        properties.update({name: value for name, value in _inert(one.inert) if name not in properties})
    return schema


def _inert(inert: Inert) -> Iterator[tuple[str, Schema]]:
    for name, accepted in inert.items():
        yield name, {"enum": [*accepted, None], "description": "Not supported: these values ask for nothing."}


def _operation(one: Operation, body: Schema | None, replies: Mapping[str, Schema]) -> Schema:
    reply = {"schema": replies.get(one.name, {"type": "string"})}
    content: Schema = {one.media: reply}
    if one.streamed:
        content[EVENTS] = {"schema": _EVENT}
    refused = {"description": "Refused", "content": {JSON: {"schema": replies[""]}}}
    found: Schema = {
        "operationId": one.name,
        "summary": one.summary,
        "responses": {
            str(one.status): {"description": one.summary, "content": content},
            "4XX": refused,
            "5XX": {**refused, "description": "Failed, or not now"},
        },
        "security": _SECURITY[door_of(one)],
    }
    if parameters := [*_path_parameters(one.path), *_query_parameters(one)]:
        found["parameters"] = parameters
    if request := _request(one, body):
        found["requestBody"] = {"required": True, "content": request}
    return found


def _request(one: Operation, body: Schema | None) -> Schema | None:
    if body is not None:
        return {JSON: {"schema": body}}
    if one.form is not None:
        return {"multipart/form-data": {"schema": dict(one.form)}}
    return {one.raw: {"schema": {"type": "string", "format": "binary"}}} if one.raw is not None else None


def _path_parameters(path: str) -> Iterator[Schema]:
    for name in re.findall(r"\{(\w+)\}", path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _query_parameters(one: Operation) -> Iterator[Schema]:
    for parameter in one.query:
        yield {
            "name": parameter.name,
            "in": "query",
            "description": parameter.about,
            "schema": dict(parameter.schema),
        }
