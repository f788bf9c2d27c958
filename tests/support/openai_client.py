"""The real openai client of a running test server."""

from __future__ import annotations

import openai

from tests.support.server import RunningServer


def openai_client(
    server: RunningServer, prefix: str = "/v1", *, key: str = "none", strict: bool = True
) -> openai.OpenAI:
    """The real client, which repeats nothing; `strict`: it raises for a reply that does not have its type's shape."""
    return openai.OpenAI(
        base_url=server.url + prefix, api_key=key, max_retries=0, timeout=20, _strict_response_validation=strict
    )
