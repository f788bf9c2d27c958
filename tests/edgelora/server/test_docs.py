"""docs/http.md and the application agree on what there is."""

from __future__ import annotations

import re
from pathlib import Path

from starlette.routing import Route

from edgelora.server.api.openai.chat import ChatBody
from edgelora.server.api.openai.completions import CompletionBody
from edgelora.server.app import build_app
from edgelora.server.generation.known_fields import CHAT_INERT, COMPLETION_INERT
from edgelora.server.http.options import ServerOptions
from edgelora.server.page.routes import PAGE_PATHS
from tests.support.service import FakeService

DOCS = Path(__file__).resolve().parents[3] / "docs" / "http.md"


def test_every_route_is_documented_and_every_documented_route_is_there(tmp_path: Path) -> None:
    """A route in the table of docs/http.md is a route of the application, and the other way round."""
    with FakeService(tmp_path, adapters={}) as service:
        app = build_app(service, ServerOptions())
    served = {
        re.sub(r":\w+}", "}", route.path)
        for route in app.routes
        if isinstance(route, Route) and not route.path.startswith("/openai/")
    } - (PAGE_PATHS - {"/"})
    table = DOCS.read_text(encoding="utf-8").partition("\n## ")[0]
    rows = re.findall(r"^\| (`[A-Z]+ .*?) \|", table, re.MULTILINE)
    assert {path for row in rows for path in re.findall(r"`(?:GET|POST|DELETE|PUT) (/[^`]*)`", row)} == served


def test_every_field_a_body_takes_is_named() -> None:
    """Every honoured field is documented, and so are the best known of the unsupported ones."""
    honoured = {*ChatBody.__struct_fields__, *CompletionBody.__struct_fields__}
    text = DOCS.read_text(encoding="utf-8")
    assert all(f"`{name}" in text for name in honoured)
    assert all(f"`{name}" in text and name in CHAT_INERT for name in ("functions", "grammar", "guided_json"))
    assert not set(ChatBody.__struct_fields__) & set(CHAT_INERT)
    assert not set(CompletionBody.__struct_fields__) & set(COMPLETION_INERT)
