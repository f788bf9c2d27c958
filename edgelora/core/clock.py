"""The wall clock that chat templates may read. It stands apart so that the text wing reads no clock of its own."""

from __future__ import annotations

from datetime import datetime


def strftime_now(form: str) -> str:
    """Return the local time in a strftime format, as the function of that name in transformers' chat templates."""
    return datetime.now().strftime(form)
