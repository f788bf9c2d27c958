"""`tools`, `tool_choice`, `parallel_tool_calls` and `response_format`: from a body to the constraint on its answer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from edgelora.core.errors import UsageError
from edgelora.core.sampling_params import Constraint
from edgelora.server.http.json_body import parse_object
from edgelora.server.http.validation import invalid, missing
from edgelora.text import schema_grammar
from edgelora.text.tool_parser import CallParser, ForcedCallParser, ToolParser
from edgelora.text.tools import Tool

MAX_TOOLS = 128
MAX_TOOL_CHARS = 512 << 10
"""Maximum length of all functions' parameters together, as JSON."""

Choice = Literal["none", "auto", "required"]

FUNCTION_NAME = r"^[a-zA-Z0-9_-]{1,64}$"
FunctionName = Annotated[str, Meta(pattern=FUNCTION_NAME)]


class FunctionSpec(Struct, frozen=True):
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """The JSON schema of the parameters; None: the function has none."""


class ToolSpec(Struct, frozen=True):
    type: Literal["function"]
    function: FunctionSpec


class JsonSchemaFormat(Struct, frozen=True):
    schema: dict[str, Any]


class ResponseFormat(Struct, frozen=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None
    schema: dict[str, Any] | None = None
    """The schema in the form of llama-server and Together, beside either type of JSON."""


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The functions of a request, and which of them its answer may or must call."""

    tools: tuple[Tool, ...] = ()
    """The functions that the prompt describes."""
    may: tuple[Tool, ...] = ()
    """The functions that the answer may call."""
    must: bool = False
    """True if the answer must call one of `may`."""
    several: bool = True
    """True if the answer may make several calls."""

    @property
    def names(self) -> frozenset[str]:
        return frozenset(tool.name for tool in self.may)

    def constraint(self, schema: schema_grammar.Schema | None) -> Constraint | None:
        """Return the constraint on the answer's text; None: any text. `schema`: for an answer that makes no call."""
        if self.must:
            return schema_grammar.of_calls(self.may, several=self.several)
        if schema is None:
            return None
        if self.may:
            return schema_grammar.of_call_or_answer(self.may, schema, param="response_format")
        return schema_grammar.of_schema(schema, param="response_format")

    def parser(self) -> ToolParser:
        """Return a parser of the calls in one answer."""
        return ForcedCallParser(self.names) if self.must else CallParser(self.names)


def toolbox(tools: Sequence[ToolSpec] | None, choice: Choice | dict[str, Any] | None, parallel: bool | None) -> Toolbox:
    """Return the functions of a request. Raises UsageError naming the field."""
    declared = tuple(_tool(spec, f"tools[{index}]") for index, spec in enumerate(tools or ()))
    if len({tool.name for tool in declared}) < len(declared):
        raise invalid("tools", "has two functions with the same name")
    if sum(len(tool.parameters) for tool in declared) > MAX_TOOL_CHARS:
        raise invalid("tools", f"has parameters of more than {MAX_TOOL_CHARS} characters together")
    mode, may = _chosen(choice, declared)
    if mode == "none":
        return Toolbox()
    if mode == "required" and not may:
        raise invalid("tool_choice", "asks for a call, but there are no 'tools'")
    named = isinstance(choice, dict) and choice.get("type") == "function"
    return Toolbox(declared, may, must=mode == "required", several=parallel is not False and not named)


def answer_schema(response_format: ResponseFormat | None) -> schema_grammar.Schema | None:
    """Return the JSON schema that the answer must match; None: any text. Raises UsageError naming the field."""
    if response_format is None or response_format.type == "text":
        return None
    beside = response_format.schema
    if response_format.type == "json_object":
        return beside or schema_grammar.ANY_OBJECT
    if response_format.json_schema is None:
        if beside is None:
            raise missing("response_format.json_schema")
        return beside
    if beside is not None and beside != response_format.json_schema.schema:
        raise invalid("response_format.schema", "disagrees with 'json_schema'")
    return response_format.json_schema.schema


@contextmanager
def naming(param: str) -> Iterator[None]:
    """Set `param` in the errors of refused schemas that name no field."""
    try:
        yield
    except UsageError as error:
        if error.code == "unsupported_schema":
            error.param = error.param or param
        raise


def is_json_object(text: str) -> bool:
    try:
        parse_object(text.encode())
    except UsageError:
        return False
    return True


def _tool(spec: ToolSpec, at: str) -> Tool:
    about = spec.function
    schema = {"type": "object", **(about.parameters or {"properties": {}, "additionalProperties": False})}
    if schema["type"] != "object":
        raise invalid(f"{at}.function.parameters", "must be the schema of an object")
    schema_grammar.check_schema(schema, f"{at}.function.parameters")
    return Tool(about.name, json.dumps(schema, ensure_ascii=False), about.description or "")


def _chosen(choice: Choice | dict[str, Any] | None, declared: tuple[Tool, ...]) -> tuple[Choice, tuple[Tool, ...]]:
    """Return the mode, and the functions that may be called."""
    if not isinstance(choice, dict):
        return choice or "auto", declared
    if choice.get("type") == "function":
        return "required", (_named(choice, declared),)
    if choice.get("type") != "allowed_tools":
        raise invalid("tool_choice.type", "must be 'function' or 'allowed_tools'")
    allowed = choice.get("allowed_tools")
    mode, names = (allowed.get("mode"), allowed.get("tools")) if isinstance(allowed, dict) else (None, None)
    if mode not in ("auto", "required") or not isinstance(names, list) or not names:
        raise invalid("tool_choice.allowed_tools", "must have a 'mode', auto or required, and 'tools'")
    may = {tool.name: tool for tool in (_named(name, declared) for name in names)}
    return "required" if mode == "required" else "auto", tuple(may.values())


def _named(choice: object, declared: tuple[Tool, ...]) -> Tool:
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    named = next((tool for tool in declared if tool.name == name), None)
    if named is None:
        raise invalid("tool_choice", "must name one of the functions in 'tools'")
    return named
