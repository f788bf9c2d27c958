"""`tools`, `tool_choice`, `parallel_tool_calls` and `response_format`: from a body to what the answer is held to."""

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
"""Of all functions' parameters, as JSON."""

Choice = Literal["none", "auto", "required"]

FunctionName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class FunctionSpec(Struct, frozen=True):
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """Left out, it has none."""


class ToolSpec(Struct, frozen=True):
    type: Literal["function"]
    function: FunctionSpec


class JsonSchemaFormat(Struct, frozen=True):
    schema: dict[str, Any]


class ResponseFormat(Struct, frozen=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The functions of a request."""

    tools: tuple[Tool, ...] = ()
    """Told of in the prompt."""
    may: tuple[Tool, ...] = ()
    """Those that may be called."""
    must: bool = False
    """Whether one of them must be."""
    several: bool = True

    @property
    def names(self) -> frozenset[str]:
        return frozenset(tool.name for tool in self.may)

    def held_to(self, schema: schema_grammar.Schema | None) -> Constraint | None:
        """What the answer's text must be. `schema`: of an answer that does not call."""
        if self.must:
            return schema_grammar.of_calls(self.may, several=self.several)
        if schema is None:
            return None
        if self.may:
            return schema_grammar.of_call_or_answer(self.may, schema, param="response_format")
        return schema_grammar.of_schema(schema, param="response_format")

    def reader(self) -> ToolParser:
        return ForcedCallParser(self.names) if self.must else CallParser(self.names)


def toolbox(tools: Sequence[ToolSpec] | None, choice: Choice | dict[str, Any] | None, parallel: bool | None) -> Toolbox:
    """Raises UsageError naming the field."""
    known = tuple(_tool(spec, f"tools[{index}]") for index, spec in enumerate(tools or ()))
    if len({tool.name for tool in known}) < len(known):
        raise invalid("tools", "has two functions of one name")
    if sum(len(tool.parameters) for tool in known) > MAX_TOOL_CHARS:
        raise invalid("tools", f"has parameters of more than {MAX_TOOL_CHARS} characters together")
    mode, may = _chosen(choice, known)
    if mode == "none":
        return Toolbox()
    if mode == "required" and not may:
        raise invalid("tool_choice", "asks for a call, but there are no 'tools'")
    named = isinstance(choice, dict) and choice.get("type") == "function"
    return Toolbox(known, may, must=mode == "required", several=parallel is not False and not named)


def answer_schema(wanted: ResponseFormat | None) -> schema_grammar.Schema | None:
    """The JSON schema an answer must have; None for any text. Raises UsageError naming the field."""
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return schema_grammar.ANY_OBJECT
    if wanted.json_schema is None:
        raise missing("response_format.json_schema")
    return wanted.json_schema.schema


@contextmanager
def naming(param: str) -> Iterator[None]:
    """A schema that is refused within names this field, unless it names one."""
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


def _chosen(choice: Choice | dict[str, Any] | None, known: tuple[Tool, ...]) -> tuple[Choice, tuple[Tool, ...]]:
    """How it is to be; and which functions may be called."""
    if not isinstance(choice, dict):
        return choice or "auto", known
    if choice.get("type") == "function":
        return "required", (_named(choice, known),)
    if choice.get("type") != "allowed_tools":
        raise invalid("tool_choice.type", "must be 'function' or 'allowed_tools'")
    allowed = choice.get("allowed_tools")
    mode, names = (allowed.get("mode"), allowed.get("tools")) if isinstance(allowed, dict) else (None, None)
    if mode not in ("auto", "required") or not isinstance(names, list) or not names:
        raise invalid("tool_choice.allowed_tools", "must have a 'mode', auto or required, and 'tools'")
    may = {tool.name: tool for tool in (_named(name, known) for name in names)}
    return "required" if mode == "required" else "auto", tuple(may.values())


def _named(choice: object, known: tuple[Tool, ...]) -> Tool:
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    found = next((tool for tool in known if tool.name == name), None)
    if found is None:
        raise invalid("tool_choice", "must name one of the functions in 'tools'")
    return found
