"""The access log has one line a request, if it is enabled, and never any content."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

from edgelora.core.log_format import LogOptions, logged
from tests.support.server import TEST_OPTIONS, serving
from tests.support.service import FakeService

SECRETS = ("PROMPTTEXT", "ANSWERTEXT", "s3cret", "QUERYTEXT", "HEADERTEXT", "SYSTEMTEXT")
ASK = {"messages": [{"role": "system", "content": "SYSTEMTEXT"}, {"role": "user", "content": "PROMPTTEXT"}]}
HEADERS = {"Authorization": "Bearer s3cret", "X-Thing": "HEADERTEXT"}


def lines_of(tmp_path: Path, *, access_log: bool) -> list[str]:
    """The log, at its most talkative, of good and bad requests that carry secrets everywhere."""
    stream = io.StringIO()
    options = replace(TEST_OPTIONS, api_key="s3cret", access_log=access_log)
    adapters = {"medical-faq": "ANSWERTEXT"}
    with (
        logged(LogOptions("json", "debug"), stream=stream),
        FakeService(tmp_path, adapters=adapters, answer="ANSWERTEXT") as service,
        serving(service, options) as server,
    ):
        server.post("/v1/chat/completions?key=QUERYTEXT", {"model": "medical-faq", **ASK}, HEADERS)
        server.post("/v1/chat/completions", {"model": "tiny", "stream": True, **ASK}, HEADERS)
        server.post("/v1/chat/completions", {"model": "tiny", "temperature": "PROMPTTEXT", **ASK}, HEADERS)
        server.post("/v1/chat/completions", b'{"PROMPTTEXT": ', HEADERS)
        server.post("/v1/chat/completions", {"model": "unknown", **ASK}, {"Authorization": "Bearer s3cret2"})
        service.backend.fail_steps = {len(service.backend.history)}
        server.post("/v1/completions", {"model": "tiny", "prompt": "PROMPTTEXT"}, HEADERS)
    return stream.getvalue().splitlines()


def test_no_content_is_logged(tmp_path: Path) -> None:
    """No prompt, answer, key, header or query, at any level, with the access log on."""
    log = "\n".join(lines_of(tmp_path, access_log=True))
    assert log and not [secret for secret in SECRETS if secret in log]


def test_the_access_log_has_a_line_for_each_request(tmp_path: Path) -> None:
    """Method, path without its query, status, time, tokens, adapter and the id that the client was told."""
    lines = [json.loads(line) for line in lines_of(tmp_path, access_log=True)]
    logged = [line for line in lines if line["logger"] == "edgelora.access"]
    assert [line["status"] for line in logged] == [200, 200, 400, 400, 401, 500]
    first = logged[0]
    assert (first["method"], first["path"], first["adapter"]) == ("POST", "/v1/chat/completions", "medical-faq")
    assert first["completion_tokens"] == len("ANSWERTEXT") + 1 and first["prompt_tokens"] > 0 and first["ms"] > 0
    assert first["request_id"].startswith("req_") and len({line["request_id"] for line in logged}) == 6


def test_no_access_log_unless_it_is_asked_for(tmp_path: Path) -> None:
    """A server keeps no record of who asked what."""
    assert not [line for line in lines_of(tmp_path, access_log=False) if "edgelora.access" in line]


def test_a_path_cannot_flood_or_forge_the_log(tmp_path: Path) -> None:
    """Long paths are cut, and no byte of one ends a line or looks like another character."""
    stream = io.StringIO()
    with (
        logged(LogOptions(), stream=stream),
        FakeService(tmp_path, adapters={}) as service,
        serving(service, replace(TEST_OPTIONS, access_log=True)) as server,
    ):
        server.request("GET", "/" + "x" * 2000)
        server.send(b"GET /a%0Ab\xff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        server.request("GET", "/a%0Ab")
    lines = stream.getvalue().splitlines()
    assert all(line.isascii() and len(line) < 400 for line in lines)
    assert [line.split(" GET ")[1].split(" ")[0] for line in lines if " GET " in line][-1] == "/a%0Ab"
