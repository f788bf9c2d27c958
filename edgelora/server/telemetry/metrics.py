"""GET /metrics: the server's counters and the engine's statistics for Prometheus.

Each scrape fills a registry of its own, so that prometheus_client's global metrics are not in it, and two servers in
one process do not mix.
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
                "GET",
                "/metrics",
                self.metrics,
                Access.FULL_KEY,
                "metrics",
                "Retrieve the metrics for Prometheus",
                reply_media=TEXT,
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
        """Do the blocking work, which the first time includes importing prometheus_client."""
        import prometheus_client.exposition  # noqa: F401

        return take_snapshot(self._runtime, self._counters.started)


class _SnapshotCollector:
    """A collector for prometheus_client that returns given metrics."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics)


def server_metrics(counters: Counters) -> Iterator[Metric]:
    """Yield the metrics of the server's own counters."""
    from prometheus_client.core import CounterMetricFamily

    requests = CounterMetricFamily(
        "edgelora_http_requests",
        "HTTP requests answered.",
        labels=("route", "status", "adapter"),
    )
    for (route, status, label), count in counters.requests.items():
        requests.add_metric((route, str(status), label), count)
    yield requests
    tokens = counters.tokens.items()
    yield _counters("prompt_tokens", "Prompt tokens.", {label: count.prompt for label, count in tokens})
    yield _counters(
        "cached_tokens", "Prompt tokens that were in the KV cache.", {label: count.cached for label, count in tokens}
    )
    yield _counters("completion_tokens", "Completion tokens.", {label: count.completion for label, count in tokens})
    yield _histogram("time_to_first_token_seconds", "From a request's head to its first token.", counters.first_token)
    yield _histogram("inter_token_seconds", "Between two tokens of an answer.", counters.gaps)


def engine_metrics(snapshot: Snapshot) -> Iterator[Metric]:
    """Yield the metrics of the runtime and of its processes' memory."""
    stats, reuse, taken = snapshot.stats, snapshot.stats.reuse, _by_label(snapshot.stats)
    resident = {name: process.resident for name, process in snapshot.memory.items()}
    peak = {name: process.peak for name, process in snapshot.memory.items() if process.peak is not None}
    yield _gauge("uptime_seconds", "Seconds since the server started.", snapshot.uptime)
    yield _gauge("ready", "1 if the server accepts requests.", int(snapshot.health.state == "ready"))
    yield _counter("engine_restarts", "Restarts of the engine after a crash.", snapshot.health.restarts)
    yield _gauges("process_resident_bytes", "Resident memory, mapped files included.", resident, label="process")
    yield _gauges("process_peak_resident_bytes", "Maximum resident memory.", peak, label="process")
    if stats.allocated_peak_bytes:
        yield _gauge("mlx_bytes", "Memory of MLX's allocator.", stats.allocated_bytes)
        yield _gauge("mlx_peak_bytes", "Maximum memory of MLX's allocator.", stats.allocated_peak_bytes)
    yield _gauge("requests_running", "Requests in the batch.", stats.running)
    yield _gauge("requests_queued", "Requests waiting for a place in the batch.", stats.queued)
    yield _gauges("adapter_running", "Requests in the batch.", {label: use.running for label, use in taken.items()})
    yield _gauges(
        "adapter_queued",
        "Requests waiting for a place in the batch.",
        {label: use.waiting for label, use in taken.items()},
    )
    yield _gauge("queue_limit", "Maximum number of waiting requests.", stats.max_queue)
    yield _counter("steps", "Forward passes.", stats.steps)
    yield _counter("tokens", "Tokens sampled.", stats.tokens)
    yield _counter("draft_tokens", "Draft tokens verified.", stats.drafted)
    yield _counter("draft_tokens_accepted", "Draft tokens accepted.", stats.accepted)
    yield from _pool_metrics(stats)
    yield _gauge("kv_cells", "Cells of the KV cache, one a token.", stats.kv_cells)
    yield _gauges("kv_cells_used", "KV cells of running requests.", {label: use.cells for label, use in taken.items()})
    yield _gauges(
        "kv_cells_warm",
        "KV cells that finished requests left in the cache.",
        {label: use.cached for label, use in taken.items()},
    )
    yield _counter("prefix_lookups", "Requests that looked for their prompt's prefix in the KV cache.", reuse.starts)
    yield _counter("prefix_hits", "Requests whose prompt's prefix was in the KV cache.", reuse.hits)
    yield _counter("prefix_tokens_reused", "Prompt tokens reused from the KV cache.", reuse.tokens)
    yield _counter("prefixes_restored", "Prefixes restored from disk.", reuse.restored)


def _pool_metrics(stats: EngineStats) -> Iterator[Metric]:
    nbytes: Counter[str] = Counter()
    leases: Counter[str] = Counter()
    pinned: dict[str, float] = {}
    for entry in stats.adapters:  # two versions of a name may be in memory
        name = entry.ref.name
        nbytes[name] += entry.ref.nbytes
        leases[name] += entry.leases
        pinned[name] = max(pinned.get(name, 0), int(entry.pinned))
    yield _gauges("adapter_bytes", "Memory of loaded adapters.", nbytes)
    yield _gauges("adapter_leases", "Live requests that use the adapter.", leases)
    yield _gauges("adapter_pinned", "1 if the adapter is pinned in memory.", pinned)
    yield _gauge("adapter_budget_bytes", "Memory budget of adapters.", stats.adapter_budget_bytes)
    yield _counters(
        "adapter_requests", "Requests that used the adapter.", {count.name: count.requests for count in stats.counts}
    )
    yield _counters(
        "adapter_hits", "Requests whose adapter was in memory.", {count.name: count.hits for count in stats.counts}
    )
    yield _counters(
        "adapter_loads", "Times the adapter was loaded.", {count.name: count.loads for count in stats.counts}
    )
    yield _counters(
        "adapter_evictions", "Times the adapter was evicted.", {count.name: count.evictions for count in stats.counts}
    )


def _by_label(stats: EngineStats) -> dict[str, Occupancy]:
    """Return the occupancy of each adapter's requests by label; compositions share one."""
    sums: dict[str, Occupancy] = {}
    for part in stats.occupancy:
        label = BASE if not part.adapters else part.adapters[0] if len(part.adapters) == 1 else SEVERAL
        sums[label] = sums.get(label, Occupancy(part.adapters)).plus(part)
    return sums


def _counter(name: str, text: str, value: float) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    return CounterMetricFamily(f"edgelora_{name}", text, value=value)


def _counters(name: str, text: str, values: Mapping[str, float], *, label: str = "adapter") -> Metric:
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(f"edgelora_{name}", text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(f"edgelora_{name}", text, value=value)


def _gauges(name: str, text: str, values: Mapping[str, float], *, label: str = "adapter") -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(f"edgelora_{name}", text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family


def _histogram(name: str, text: str, values: Mapping[str, Histogram]) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(f"edgelora_{name}", text, labels=("adapter",))
    for label, histogram in values.items():
        buckets = [("+Inf" if isinf(bound) else str(bound), count) for bound, count in histogram.buckets()]
        family.add_metric((label,), buckets, histogram.total)
    return family
