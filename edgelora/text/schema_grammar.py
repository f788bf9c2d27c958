"""From what a client asks of an answer's form to a `Constraint`: a JSON schema, any JSON object, calls of functions.

Bounds the schemas; whether llguidance can hold an answer to them is told when the constraint is compiled
(`guided_decoding.py`).
Pure, and without llguidance: only its input is written here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edgelora.core.errors import UsageError
from edgelora.core.sampling_params import Constraint
from edgelora.text.tools import Tool

Schema = Mapping[str, Any]

MAX_CHARS = 256 << 10
"""Maximum characters of a schema, as JSON."""
MAX_DEPTH = 64
MAX_PROPERTIES = 500
"""Properties of one object at most: each optional one is a choice at every comma, and so many take a mask 10 ms."""
MAX_PATTERN = 2000
"""Maximum characters of a regular expression."""
MAX_CALLS = 16
"""Maximum number of calls in one answer."""

ANY_OBJECT: Schema = {"type": "object"}

CALL_OPENING, CALL_CLOSING, CALL_BETWEEN = '{{"name": "{name}", "parameters": ', "}", "; "
"""The form of a call in Llama 3.1's template, and what vLLM's parser and others expect between two."""

# Between the tokens of JSON, nothing, a space, or a new line with its indentation: what people write, and a model can
# waste little on it. Nothing that a schema says may be left out because it is not known: an answer must never be freer
# than it was asked to be. No character is written by its number: "\u0061" would be a second property "a", of any type.
_RULES: Schema = {
    "whitespace_pattern": r"( |\n[ \t]{0,32})?",
    "json_allowed_escapes": 'nrbtf"\\',
    "lenient": False,
    "coerce_one_of": False,
}


def of_schema(schema: object, *, param: str) -> Constraint:
    """Return the constraint to JSON that `schema` describes. `param`: the request field it came from.

    Raises UsageError(code unsupported_schema) if it is not an object, or exceeds the limits.
    """
    return _constraint({"json_schema": _ruled(schema, param)})


def of_calls(tools: Sequence[Tool], *, several: bool) -> Constraint:
    """Calls of these functions, one or (`several`) up to MAX_CALLS, and nothing else. Raises as `of_schema` does."""
    more = f' ("{CALL_BETWEEN}" call){{0,{MAX_CALLS - 1}}}' if several else ""
    either = " | ".join(f"call{number}" for number in range(len(tools)))
    calls = [f'call{n}: {_opening(tool)} @parameters{n} "{CALL_CLOSING}"' for n, tool in enumerate(tools)]
    lark = "\n".join(["%llguidance {}", f"start: call{more}", f"call: {either}", *calls, ""])
    schemas = [_ruled(json.loads(tool.parameters), _param(number)) for number, tool in enumerate(tools)]
    named = [{"name": f"parameters{number}", "json_schema": schema} for number, schema in enumerate(schemas)]
    return _constraint({"name": "main", "lark_grammar": lark}, *named)


def of_call_or_answer(tools: Sequence[Tool], schema: object, *, param: str) -> Constraint:
    """Return the constraint to one call of these functions, or to JSON that `schema` describes. Raises as
    `of_schema` does.

    All of it is one schema: of two grammars that begin alike, only one could be followed.
    """
    answer = {"$id": "urn:edgelora:answer", **check_schema(schema, param)}
    calls = [_call_schema(tool, number) for number, tool in enumerate(tools)]
    return _constraint({"json_schema": {"anyOf": [*calls, answer], "x-guidance": _RULES}})


def check_schema(schema: object, param: str) -> Schema:
    """Return `schema` if it is an object within the limits. Raises UsageError(code unsupported_schema)."""
    if not isinstance(schema, Mapping):
        raise _refused("it is not a JSON object", param)
    waiting: list[tuple[object, int]] = [(schema, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise _refused(f"it is nested deeper than {MAX_DEPTH} levels", param)
        if isinstance(value, Mapping):
            _check_object(value, param)
            waiting += ((value_inside, depth + 1) for value_inside in value.values())
        elif isinstance(value, list):
            waiting += ((value_inside, depth + 1) for value_inside in value)
    if len(json.dumps(schema)) > MAX_CHARS:
        raise _refused(f"it has more than {MAX_CHARS} characters", param)
    return schema


def _check_object(value: Mapping[str, object], param: str) -> None:
    if _may_repeat(value):
        raise _refused("'minProperties' cannot be counted where a name that is not listed may come twice", param)
    if "x-guidance" in value:
        raise _refused("'x-guidance' is not for clients to say", param)
    if len(value) > MAX_PROPERTIES:
        raise _refused(f"an object in it has more than {MAX_PROPERTIES} properties", param)
    pattern = value.get("pattern")
    if isinstance(pattern, str) and len(pattern) > MAX_PATTERN:
        raise _refused(f"a pattern in it has more than {MAX_PATTERN} characters", param)


def _may_repeat(value: Mapping[str, object]) -> bool:
    """Return True if two or more unlisted names are required, which llguidance does not keep distinct."""
    least, required = value.get("minProperties"), value.get("required")
    listed = len(required) if isinstance(required, list) else 0
    return isinstance(least, (int, float)) and least > listed + 1


def _call_schema(tool: Tool, number: int) -> Schema:
    # With an $id of its own, "#" in a reference still means the function's own schema.
    parameters = {"$id": f"urn:edgelora:{number}", **check_schema(json.loads(tool.parameters), _param(number))}
    return {
        "type": "object",
        "properties": {"name": {"const": tool.name}, "parameters": parameters},
        "required": ["name", "parameters"],
        "additionalProperties": False,
    }


def _param(number: int) -> str:
    return f"tools[{number}].function.parameters"


def _opening(tool: Tool) -> str:
    return json.dumps(CALL_OPENING.format(name=tool.name))


def _ruled(schema: object, param: str) -> Schema:
    return {**check_schema(schema, param), "x-guidance": _RULES}


def _constraint(*grammars: Mapping[str, object]) -> Constraint:
    return Constraint(json.dumps({"grammars": grammars}))


def _refused(why: str, param: str) -> UsageError:
    return UsageError("unsupported_schema", f"The schema cannot be used: {why}.", "Send a simpler one.", param=param)
