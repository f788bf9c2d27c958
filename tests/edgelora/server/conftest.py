"""A running server over a scripted service, one for each module that only asks and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.server import RunningServer, serving
from tests.support.service import FakeService

ADAPTERS = {
    "medical-faq": "Hypertension is high blood pressure.",
    "me/a:v1": "A name with a slash and a colon.",
    "letters": None,
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeService]:
    with FakeService(tmp_path_factory.mktemp("adapters"), adapters=ADAPTERS) as service:
        yield service


@pytest.fixture(scope="module")
def server(service: FakeService) -> Iterator[RunningServer]:
    with serving(service) as running:
        yield running
