"""Typed values of JSON bodies, and the errors that name the field at fault."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

import msgspec
from msgspec import Struct

from edgelora.core.errors import UsageError
from edgelora.server.http.endpoint import Inert

StructT = TypeVar("StructT", bound=Struct)
NO_REMEDIES: Mapping[str, str] = {}


def typed(raw: object, kind: type[StructT]) -> StructT:
    """Convert a parsed JSON value. Raises UsageError with `param` for a missing, mistyped or out-of-range field."""
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise _explain(str(error)) from None


def check_text(text: str, param: str) -> None:
    """Raises UsageError for half of a surrogate pair: JSON can write one, but it is no text."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise invalid(param, "has half of a surrogate pair, which is not a character") from None


def refuse_unsupported(
    raw: Mapping[str, object], inert: Inert, *, at: str = "", remedies: Mapping[str, str] = NO_REMEDIES
) -> None:
    """Raises UsageError for a field of `inert` whose value is not one of those that change nothing.

    `at`: the path of `raw` in the body, which the error puts before the field's name. `remedies`: by field, what to do
    instead of leaving it out.
    """
    for name, accepted in inert.items():
        value = raw.get(name)
        if value is not None and not any(_same(value, candidate) for candidate in accepted):
            raise unsupported(f"{at}{name}", accepted, remedies.get(name))


def invalid(param: str, why: str) -> UsageError:
    return UsageError("invalid_value", f"The field {param!r} {why}.", param=param)


def missing(param: str) -> UsageError:
    return UsageError("missing_required_parameter", f"The field {param!r} is missing.", param=param)


def unsupported(param: str, accepted: tuple[object, ...] = (), remedy: str | None = None) -> UsageError:
    """`accepted`: the values that are let through because they change nothing; the error lists them, unless there is a
    better `remedy`."""
    values = " or ".join(msgspec.json.encode(value).decode() for value in accepted)
    only = f", or send {values}" if values else ""
    what = f"The field {param!r} is not supported."
    return UsageError("unsupported_parameter", what, remedy or f"Leave it out{only}.", param=param)


def _same(value: object, accepted: object) -> bool:
    # In Python True is 1; in JSON it is not.
    return value == accepted and isinstance(value, bool) == isinstance(accepted, bool)


_AT = re.compile(r"(?P<problem>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>\w+)`")


def _explain(message: str) -> UsageError:
    """A UsageError from msgspec's message, `Expected ..., got ... - at `$.messages[0].role``."""
    match = _AT.fullmatch(message)
    problem, path = (match["problem"], match["path"] or "") if match else (message, "")
    if field := _MISSING.fullmatch(problem):
        return missing(f"{path}.{field['name']}" if path else field["name"])
    code = "invalid_type" if ", got " in problem else "invalid_value"
    explanation = problem[:1].lower() + problem[1:]
    return UsageError(code, f"The field {path!r} is wrong: {explanation}.", param=path)
