"""The real client of a server whose engine a test holds up."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.support.openai_client import openai_client
from tests.support.server import RunningServer


@pytest.fixture
def held_client(held_server: RunningServer) -> Iterator[openai.OpenAI]:
    with openai_client(held_server) as client:
        yield client
