"""`{name:number}` in a path: a number of at most nine digits.

Starlette's own `int` takes any number of digits, and Python refuses to convert more than 4,300: an internal error.
"""

from __future__ import annotations

from starlette.convertors import IntegerConvertor


class NumberConvertor(IntegerConvertor):
    """A path with a longer number matches no route."""

    regex = "[0-9]{1,9}"
