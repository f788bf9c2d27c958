"""Together's words for answers, where they are not OpenAI's: its clients, where they are strict, take no others.

Known by the User-Agent that its 2.x and 3.x packages send. To everybody else nothing changes.
"""

from __future__ import annotations

import re
from dataclasses import replace

from starlette.datastructures import Headers

from edgelora.server.sse import Shape
from edgelora.server.wording import Fields

_AGENT = re.compile(r"(?:Async)?Together/")


def from_together(headers: Headers) -> bool:
    return _AGENT.match(headers.get("user-agent", "")) is not None


def in_its_words(shape: Shape) -> Shape:
    """`prompt` beside every whole answer, a role in every chat delta, and `text.completion` with a full stop."""
    return replace(shape, object=shape.object.replace("text_", "text."), finish=_finish)


def _finish(fields: Fields) -> Fields:
    choices = fields["choices"]
    if "usage" in fields and fields["usage"] is not None and choices:
        return {**fields, "prompt": []}
    return {**fields, "choices": [_with_role(choice) for choice in choices]} if isinstance(choices, list) else fields


def _with_role(choice: Fields) -> Fields:
    delta = choice.get("delta")
    return {**choice, "delta": {"role": "assistant", **delta}} if isinstance(delta, dict) else choice
