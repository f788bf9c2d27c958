"""A few of the requests of `python -m tests.system.contract`, which CI runs with many."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("schemathesis")

from tests.system.contract.names import known_server
from tests.system.contract.runner import run


def test_requests_made_from_the_document_get_documented_replies(tmp_path: Path) -> None:
    """Right ones and wrong ones: statuses, media types and bodies are those that the document has."""
    with known_server(tmp_path) as server:
        url = server.manager.server.url
        listed = run(url, server, examples=4, seed=1, only="/v1/jobs")
        detokenized = run(url, server, examples=4, seed=1, only="/v1/detokenize")
    assert listed.findings == detokenized.findings == []
    assert listed.accepted == {"GET /v1/jobs", "GET /v1/jobs/{id}"}
    assert detokenized.statuses.keys() == {200, 400}
