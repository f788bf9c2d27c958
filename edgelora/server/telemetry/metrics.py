"""GET /metrics: the server's counters and the engine's statistics in Prometheus' words. Owns the names, no number.

Each scrape fills a registry of its own, so that nothing of prometheus_client's global one is there, and two servers in
a process do not mix.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from math import isinf
from typing import TYPE_CHECKING

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from edgelora.engine.scheduler.occupancy import Occupancy
from edgelora.engine.stats import EngineStats
from edgelora.runtime.interface import Runtime
from edgelora.server.http.endpoint import TEXT, Access, Endpoint
from edgelora.server.telemetry.counters import BASE, SEVERAL, Counters, Histogram
from edgelora.server.telemetry.snapshot import Snapshot, take_snapshot

if TYPE_CHECKING:
    from prometheus_client.core import Metric


class MetricsRoutes:
    def __init__(self, runtime: Runtime, counters: Counters) -> None:
        self._runtime = runtime
        self._counters = counters

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint(
                "GET", "/metrics", self.metrics, Access.FULL_KEY, "metrics", "The same for Prometheus", reply_media=TEXT
            ),
        )

    async def metrics(self, request: Request) -> Response:
        snapshot = await to_thread.run_sync(self._prepare)
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import choose_encoder

        registry = CollectorRegistry(auto_describe=False)
        registry.register(_SnapshotCollector([*server_metrics(self._counters), *engine_metrics(snapshot)]))
        encode, media_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), media_type=media_type)

    def _prepare(self) -> Snapshot:
        """What blocks: the first time the library is read from disk, too."""
        import prometheus_client.exposition  # noqa: F401

        return take_snapshot(self._runtime, self._counters.started)


class _SnapshotCollector:
    """What prometheus_client calls a collector."""

    def __init__(self, found: Iterable[Metric]) -> None:
        self._found = list(found)

    def collect(self) -> Iterator[Metric]:
        return iter(self._found)


def server_metrics(counters: Counters) -> Iterator[Metric]:
    """What the server itself has seen."""
    from prometheus_client.core import CounterMetricFamily

    requests = CounterMetricFamily(
        "edgelora_http_requests", "HTTP requests answered.", labels=("route", "status", "adapter")
    )
    for (route, status, label), count in counters.requests.items():
        requests.add_metric((route, str(status), label), count)
    yield requests
    tokens = counters.tokens.items()
    yield _counters("prompt_tokens", "Tokens of prompts.", {label: one.prompt for label, one in tokens})
    yield _counters("cached_tokens", "Of those, not computed.", {label: one.cached for label, one in tokens})
    yield _counters("completion_tokens", "Tokens of answers.", {label: one.completion for label, one in tokens})
    yield _histogram("time_to_first_token_seconds", "From a request's head to its first text.", counters.first_token)
    yield _histogram("inter_token_seconds", "Between two pieces of an answer.", counters.gaps)


def engine_metrics(snapshot: Snapshot) -> Iterator[Metric]:
    """What the runtime tells, and what its processes take."""
    stats, reuse, taken = snapshot.stats, snapshot.stats.reuse, _by_label(snapshot.stats)
    resident = {name: one.resident for name, one in snapshot.memory.items()}
    peak = {name: one.peak for name, one in snapshot.memory.items() if one.peak is not None}
    yield _gauge("uptime_seconds", "Since the server began.", snapshot.uptime)
    yield _gauge("ready", "1 where a request sent now would be worked on.", int(snapshot.health.state == "ready"))
    yield _counter("engine_restarts", "Crashes of the engine that were got over.", snapshot.health.restarts)
    yield _gauges("process_resident_bytes", "Resident memory, mapped files included.", resident, label="process")
    yield _gauges("process_peak_resident_bytes", "The most there was of it.", peak, label="process")
    if stats.allocated_peak_bytes:
        yield _gauge("mlx_bytes", "What MLX's allocator has given out.", stats.allocated_bytes)
        yield _gauge("mlx_peak_bytes", "The most there was of it.", stats.allocated_peak_bytes)
    yield _gauge("requests_running", "Requests with a place in the batch.", stats.running)
    yield _gauge("requests_queued", "Requests without one.", stats.queued)
    yield _gauges("adapter_running", "Of those with one.", {name: one.running for name, one in taken.items()})
    yield _gauges("adapter_queued", "Of those without one.", {name: one.waiting for name, one in taken.items()})
    yield _gauge("queue_limit", "Requests that may wait before one is refused.", stats.max_queue)
    yield _counter("steps", "Forward passes.", stats.steps)
    yield _counter("tokens", "Tokens chosen.", stats.tokens)
    yield _counter("draft_tokens", "Tokens computed as drafts.", stats.drafted)
    yield _counter("draft_tokens_accepted", "Of those, the ones that came.", stats.accepted)
    yield from _pool_metrics(stats)
    yield _gauge("kv_cells", "Tokens of KV over all sequences at most.", stats.kv_cells)
    yield _gauges("kv_cells_used", "KV of running requests.", {name: one.cells for name, one in taken.items()})
    yield _gauges("kv_cells_warm", "KV that ended ones left.", {name: one.warm for name, one in taken.items()})
    yield _counter("prefix_lookups", "Requests that got a place.", reuse.starts)
    yield _counter("prefix_hits", "Of those, the ones whose prompt's beginning was in the KV.", reuse.hits)
    yield _counter("prefix_tokens_reused", "Tokens that were not computed for it.", reuse.tokens)
    yield _counter("prefixes_restored", "Prefixes read from disk.", reuse.restored)


def _pool_metrics(stats: EngineStats) -> Iterator[Metric]:
    nbytes: Counter[str] = Counter()
    leases: Counter[str] = Counter()
    pinned: dict[str, float] = {}
    for entry in stats.adapters:  # a name may be there in two versions
        name = entry.ref.name
        nbytes[name] += entry.ref.nbytes
        leases[name] += entry.leases
        pinned[name] = max(pinned.get(name, 0), int(entry.pinned))
    yield _gauges("adapter_bytes", "Memory of adapters.", nbytes)
    yield _gauges("adapter_leases", "Live requests that hold an adapter.", leases)
    yield _gauges("adapter_pinned", "1 where it stays in memory.", pinned)
    yield _gauge("adapter_budget_bytes", "Memory for adapters.", stats.adapter_budget_bytes)
    yield _counters(
        "adapter_requests", "Requests that held it.", {count.name: count.requests for count in stats.counts}
    )
    yield _counters("adapter_hits", "Of those: it was in memory.", {count.name: count.hits for count in stats.counts})
    yield _counters("adapter_loads", "Times it came into memory.", {count.name: count.loads for count in stats.counts})
    yield _counters("adapter_evictions", "Times it went.", {count.name: count.evictions for count in stats.counts})


def _by_label(stats: EngineStats) -> dict[str, Occupancy]:
    """What each adapter's requests take; all compositions together."""
    sums: dict[str, Occupancy] = {}
    for one in stats.occupancy:
        label = BASE if not one.adapters else one.adapters[0] if len(one.adapters) == 1 else SEVERAL
        sums[label] = sums.get(label, Occupancy(one.adapters)).plus(one)
    return sums


def _counter(name: str, told: str, value: float) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    return CounterMetricFamily(f"edgelora_{name}", told, value=value)


def _counters(name: str, told: str, values: Mapping[str, float], *, label: str = "adapter") -> Metric:
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(f"edgelora_{name}", told, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family


def _gauge(name: str, told: str, value: float) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(f"edgelora_{name}", told, value=value)


def _gauges(name: str, told: str, values: Mapping[str, float], *, label: str = "adapter") -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(f"edgelora_{name}", told, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family


def _histogram(name: str, told: str, values: Mapping[str, Histogram]) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(f"edgelora_{name}", told, labels=("adapter",))
    for label, one in values.items():
        buckets = [("+Inf" if isinf(bound) else str(bound), count) for bound, count in one.buckets()]
        family.add_metric((label,), buckets, one.total)
    return family
