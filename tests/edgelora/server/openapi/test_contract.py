"""A few of the requests of `python -m tests.contract`, which CI runs with many."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.server import serving
from tests.support.service import FakeService

pytest.importorskip("schemathesis")

from tests.contract.names import names_on
from tests.contract.runner import run


def test_requests_made_of_the_document_are_answered_as_it_says(tmp_path: Path) -> None:
    """Right ones and wrong ones: statuses, media types and bodies are those that the document has."""
    with FakeService(tmp_path, adapters={"a": "Yes."}) as service, serving(service) as server:
        outcome = run(server.url, names_on(server), examples=4, seed=1, only="/v1/models")
        outcome_of_a_body = run(server.url, names_on(server), examples=4, seed=1, only="/v1/detokenize")
    assert outcome.findings == outcome_of_a_body.findings == []
    assert outcome.accepted == {"GET /v1/models", "GET /v1/models/{id}"}
    assert outcome_of_a_body.statuses.keys() == {200, 400}
