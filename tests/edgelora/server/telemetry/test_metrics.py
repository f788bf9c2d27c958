"""/metrics and /v1/status over HTTP: they tell what was asked, in a form that its reader parses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edgelora.server.telemetry import counters
from tests.support.server import WAIT_SECONDS, Reply, RunningServer, serving
from tests.support.service import FakeService, Turnstile

ASK = {"messages": [{"role": "user", "content": "Hi"}]}
DOCS = Path(__file__).resolve().parents[4] / "docs" / "http.md"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[FakeService]:
    with FakeService(tmp_path, adapters={"medical-faq": "See a doctor.", "pirate": None}) as service:
        yield service


@pytest.fixture
def server(service: FakeService) -> Iterator[RunningServer]:
    with serving(service) as running:
        yield running


def parse(reply: Reply) -> Samples:
    """Every sample of a scrape, read with prometheus_client's own parser."""
    assert reply.status == 200 and reply.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(reply.body.decode())
        for sample in family.samples
    }


def scrape(server: RunningServer) -> Samples:
    return parse(server.request("GET", "/metrics"))


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"edgelora_{name}", frozenset(labels.items())]


def test_a_request_leaves_its_traces(server: RunningServer) -> None:
    """Requests by route, status and adapter; tokens; both histograms; loads, leases and KV of its adapter."""
    usage = server.post("/v1/chat/completions", {"model": "medical-faq", **ASK}).json["usage"]
    server.request("GET", "/v1/models/medical-faq")
    server.request("GET", "/nowhere")
    samples, by = scrape(server), {"adapter": "medical-faq"}
    assert value(samples, "http_requests_total", route="/v1/chat/completions", status="200", **by) == 1
    assert value(samples, "http_requests_total", route="/v1/models/{id:path}", status="200", adapter="(none)") == 1
    assert value(samples, "http_requests_total", route="(none)", status="404", adapter="(none)") == 1
    assert value(samples, "prompt_tokens_total", **by) == usage["prompt_tokens"]
    assert value(samples, "completion_tokens_total", **by) == usage["completion_tokens"]
    assert value(samples, "time_to_first_token_seconds_count", **by) == 1
    assert value(samples, "inter_token_seconds_bucket", le="+Inf", **by) == usage["completion_tokens"] - 2
    assert value(samples, "adapter_loads_total", **by) == value(samples, "adapter_requests_total", **by) == 1
    assert value(samples, "adapter_leases", **by) == value(samples, "adapter_evictions_total", **by) == 0
    assert value(samples, "adapter_bytes", **by) > 0
    assert value(samples, "tokens_total") == usage["completion_tokens"]
    assert value(samples, "process_resident_bytes", process="server") > 1 << 20
    assert value(samples, "uptime_seconds") > 0 and value(samples, "requests_queued") == 0


def test_every_metric_is_documented(server: RunningServer) -> None:
    """docs/http.md names each of them, and no other but those of MLX."""
    server.post("/v1/chat/completions", {"model": "medical-faq", **ASK})
    text = server.request("GET", "/metrics").body.decode()
    kinds = re.findall(r"^# TYPE edgelora_(\w+) (?:counter|gauge|histogram)$", text, re.MULTILINE)
    section = DOCS.read_text(encoding="utf-8").partition("## Metrics")[2].partition("\n## ")[0]
    rows = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `")]
    documented = set(re.findall(r"`(\w+)`", "".join(rows)))
    assert documented - {"mlx_bytes", "mlx_peak_bytes"} == set(kinds)


BODIES = {
    "/v1/chat/completions": {**ASK, "n": 2},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi"},
    "/openai/v1/chat/completions": {**ASK, "stream": True},
}


@pytest.mark.parametrize("path", BODIES)
def test_every_generating_route_is_counted(server: RunningServer, path: str) -> None:
    """Tokens, times and the request itself, under the adapter's name, whatever the API's shape."""
    server.post(path, {"model": "medical-faq", **BODIES[path]})
    samples, by = scrape(server), {"adapter": "medical-faq"}
    answers = 2 if "n" in BODIES[path] else 1
    assert value(samples, "http_requests_total", route=path, status="200", **by) == 1
    assert value(samples, "completion_tokens_total", **by) == value(samples, "tokens_total")
    assert value(samples, "prompt_tokens_total", **by) > 0
    assert value(samples, "time_to_first_token_seconds_count", **by) == 1
    assert value(samples, "inter_token_seconds_count", **by) == value(samples, "tokens_total") - 2 * answers


def test_refusals_are_counted_with_their_adapter(server: RunningServer, service: FakeService) -> None:
    """A refusal before the model is known has none; one of the engine's has the adapter's."""
    server.post("/v1/chat/completions", {"model": "medical-faq"})
    long = [{"role": "user", "content": "x " * 5000}]
    server.post("/v1/chat/completions", {"model": "medical-faq", "messages": long})
    samples, route = scrape(server), "/v1/chat/completions"
    assert value(samples, "http_requests_total", route=route, status="400", adapter="(none)") == 1
    assert value(samples, "http_requests_total", route=route, status="400", adapter="medical-faq") == 1
    assert ("edgelora_prompt_tokens_total", frozenset({("adapter", "medical-faq")})) not in samples


def test_series_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of adapters, unknown names and paths makes a bounded number of series."""
    monkeypatch.setattr(counters, "LABELS", 3)
    adapters = {f"a{number}": "Yes." for number in range(6)}
    with FakeService(tmp_path, adapters=adapters) as service, serving(service) as server:
        for name in adapters:
            server.post("/v1/chat/completions", {"model": name, "max_tokens": 1, **ASK})
            server.post("/v1/chat/completions", {"model": f"un{name}", **ASK})
            server.request("GET", f"/{name}")
        labels = {dict(key)["adapter"] for name, key in scrape(server) if name == "edgelora_http_requests_total"}
    assert labels == {"a0", "a1", "a2", "(other)", "(none)"}


def test_openmetrics_where_it_is_asked_for(server: RunningServer) -> None:
    """A scraper that prefers OpenMetrics gets that."""
    reply = server.request("GET", "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert reply.headers["content-type"].startswith("application/openmetrics-text") and b"# EOF" in reply.body


def test_the_status_names_what_is_in_memory(server: RunningServer, service: FakeService) -> None:
    """Adapters with bytes, pins, leases and uses, the most recently used first."""
    service.pin("pirate")
    server.post("/v1/chat/completions", {"model": "medical-faq", **ASK})
    reply = server.request("GET", "/v1/status")
    status = reply.json
    first, second = status["adapters"]["data"]
    assert reply.headers["cache-control"] == "no-store"
    assert (first["name"], first["pinned"], first["requests"], first["leases"]) == ("medical-faq", False, 1, 0)
    assert (second["name"], second["pinned"], second["requests"], second["last_used"]) == ("pirate", True, 0, None)
    assert first["last_used"] > 1e9 and first["tokens_per_second"] > 0
    assert status["adapters"]["bytes"] == first["bytes"] + second["bytes"] <= status["adapters"]["budget_bytes"]
    assert status["base"] == {"name": "tiny", "backend": "fake", "setup": None} and status["ready"] is True
    assert status["memory"]["server"]["resident_bytes"] > 0 and status["requests"]["queue_limit"] == 16


def test_the_status_tells_who_runs(server: RunningServer, service: FakeService) -> None:
    """While an answer is computed its adapter is leased, and one request runs."""
    gate = service.backend.step_gate = Turnstile()
    try:
        with server.connect() as connection:
            body = b'{"model":"pirate","messages":[{"role":"user","content":"Hi"}]}'
            head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            connection.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            assert service.backend.stepping.wait(WAIT_SECONDS)
            status, samples = server.request("GET", "/v1/status").json, scrape(server)
            assert value(samples, "requests_running") == value(samples, "adapter_leases", adapter="pirate") == 1
            assert status["requests"]["running"] == 1
            assert [(adapter["name"], adapter["leases"]) for adapter in status["adapters"]["data"]] == [("pirate", 1)]
    finally:
        gate.open()
