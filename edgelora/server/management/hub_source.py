"""Parsing the names and URLs by which clients refer to repositories of the Hugging Face hub. Pure: no network.

    hf:org/repo[@revision]    org/repo[@revision]    https://huggingface.co/org/repo[/tree/revision[/folder]]

A URL is parsed only for the repository's name. The hub itself is the server's own setting (HF_ENDPOINT), so no request
can make the server connect to a host of its choice.
"""

from __future__ import annotations

import re

from edgelora.core.errors import UsageError
from edgelora.runtime.install.sources import HubSource
from edgelora.server.http.validation import invalid

_REPOSITORY = r"(?P<repository>[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95})"
_WORD = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"
_NAME = re.compile(rf"(?:hf:)?{_REPOSITORY}(?:@(?P<revision>{_WORD}(?:/{_WORD})*))?")
_ADDRESS = re.compile(
    rf"https://(?:www\.)?(?:huggingface\.co|hf\.co)/{_REPOSITORY}"
    rf"(?:/tree/(?P<revision>{_WORD})(?:/(?P<folder>{_WORD}(?:/{_WORD})*))?)?/?"
)
_TOKEN = re.compile(r"[\x21-\x7e]{1,512}")


def parse_repository(text: str, *, token: str | None, param: str) -> HubSource:
    """Return the repository that `text` names. Raises UsageError with `param` for any other URL and for paths."""
    check_token(token)
    match = _NAME.fullmatch(text) or _ADDRESS.fullmatch(text)
    if match is None or ".." in text:
        raise UsageError(
            "source_not_allowed",
            f"The field {param!r} does not name a repository of the Hugging Face hub.",
            "Write hf:org/repo[@revision] or the repository's URL on huggingface.co, or upload the adapter.",
            param=param,
        )
    parts = match.groupdict()
    return HubSource(parts["repository"], parts["revision"] or "main", parts.get("folder"), token or None)


def check_token(token: str | None) -> None:
    """Raises UsageError for a token that could not be sent in a header. The error does not contain the token."""
    if token and not _TOKEN.fullmatch(token):
        raise invalid("token", "is not a valid token")
