"""GET /v1/status: the state and the load of the server, for `edgelora ps`, the page at / and other programs."""

from __future__ import annotations

import os
import time
from typing import Literal

import msgspec
from anyio import to_thread
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from edgelora.engine.adapters.pool import PoolEntry
from edgelora.engine.scheduler.occupancy import Occupancy
from edgelora.engine.stats import EngineState, EngineStats
from edgelora.runtime.interface import Runtime
from edgelora.server.http.drain import Drain
from edgelora.server.http.endpoint import Access, Endpoint
from edgelora.server.telemetry.counters import Counters
from edgelora.server.telemetry.snapshot import Snapshot, take_snapshot


class BaseStatus(Struct, frozen=True):
    name: str
    backend: str
    setup: str | None
    """The backend's configuration, as text for people."""


class EngineStatus(Struct, frozen=True):
    state: EngineState
    why: str | None
    """The reason in one sentence, if the engine is not ready."""
    restarts: int
    pid: int | None


class RequestsStatus(Struct, frozen=True):
    running: int
    queued: int
    queue_limit: int


class SpeedStatus(Struct, frozen=True):
    tokens_per_second: float
    """Tokens generated per second, over the last ten seconds."""
    first_token_seconds: float | None
    """Median time to first token of the last hundred requests."""


class MemoryStatus(Struct, frozen=True):
    resident_bytes: int
    """Resident memory, mapped files included."""
    peak_bytes: int | None


class ResidentAdapter(Struct, frozen=True):
    """An adapter version in memory. The load figures are of all versions of its name."""

    name: str
    version: str
    bytes: int
    resident: bool
    """True once the adapter is loaded."""
    pinned: bool
    leases: int
    """Number of live requests that use the adapter."""
    requests: int
    """Number of requests that used the adapter since it was loaded."""
    last_used: float | None
    """Time of the latest request in Unix seconds."""
    queued: int
    running: int
    kv_warm: int
    """Number of KV cells that finished requests left in the cache."""
    tokens_per_second: float


class AdaptersStatus(Struct, frozen=True):
    bytes: int
    budget_bytes: int
    data: list[ResidentAdapter]
    """The adapters in memory, the most recently used first."""


class KvStatus(Struct, frozen=True):
    """The KV cache; sizes in cells, one a token."""

    cells: int
    used: int
    warm: int
    prefix_lookups: int
    prefix_hits: int


class DraftsStatus(Struct, frozen=True):
    tokens: int
    accepted: int


class Status(Struct, frozen=True, kw_only=True):
    object: Literal["edgelora.status"] = "edgelora.status"
    version: str
    pid: int
    uptime_seconds: float
    ready: bool
    base: BaseStatus
    engine: EngineStatus
    requests: RequestsStatus
    speed: SpeedStatus
    memory: dict[str, MemoryStatus]
    """Memory of the process `server`, and of `engine` if that is another one; `mlx`: the memory of MLX's allocator."""
    adapters: AdaptersStatus
    kv: KvStatus
    drafts: DraftsStatus


class StatusRoutes:
    def __init__(self, runtime: Runtime, counters: Counters, drain: Drain) -> None:
        self._runtime = runtime
        self._counters = counters
        self._drain = drain

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint(
                "GET", "/v1/status", self.status, Access.FULL_KEY, "status",
                "Retrieve the state and the load of the server",
                reply=Status,
            ),
        )  # fmt: skip

    async def status(self, _request: Request) -> Response:
        snapshot = await to_thread.run_sync(take_snapshot, self._runtime, self._counters.started)
        body = msgspec.json.encode(self._status(snapshot))
        return Response(body, media_type="application/json", headers={"cache-control": "no-store"})

    def _status(self, snapshot: Snapshot) -> Status:
        from edgelora.core.version import __version__

        stats, health = snapshot.stats, snapshot.health
        rates = self._counters.speed.rates(time.monotonic())
        return Status(
            version=str(__version__),
            pid=os.getpid(),
            uptime_seconds=round(snapshot.uptime, 3),
            ready=health.state == "ready" and not self._drain.begun,
            base=self._base(),
            engine=EngineStatus(health.state, health.why or None, health.restarts, health.pid),
            requests=RequestsStatus(stats.running, stats.queued, stats.max_queue),
            speed=SpeedStatus(round(sum(rates.values()), 2), self._counters.recent_first_token),
            memory=_memory(snapshot),
            adapters=_adapters(stats, rates),
            kv=_kv(stats),
            drafts=DraftsStatus(stats.drafted, stats.accepted),
        )

    def _base(self) -> BaseStatus:
        runtime, setup = self._runtime, self._runtime.setup
        return BaseStatus(runtime.base.name, runtime.backend_name, None if setup is None else str(setup))


def _memory(snapshot: Snapshot) -> dict[str, MemoryStatus]:
    memory = {name: MemoryStatus(process.resident, process.peak) for name, process in snapshot.memory.items()}
    if (peak := snapshot.stats.allocated_peak_bytes) > 0:
        memory["mlx"] = MemoryStatus(snapshot.stats.allocated_bytes, peak)
    return memory


def _adapters(stats: EngineStats, rates: dict[str, float]) -> AdaptersStatus:
    data = [_adapter(entry, stats.occupancy, rates) for entry in reversed(stats.adapters)]
    return AdaptersStatus(sum(adapter.bytes for adapter in data), stats.adapter_budget_bytes, data)


def _adapter(entry: PoolEntry, occupancy: tuple[Occupancy, ...], rates: dict[str, float]) -> ResidentAdapter:
    name = entry.ref.name
    own = [part for part in occupancy if name in part.adapters]
    return ResidentAdapter(
        name=name,
        version=entry.ref.version[:12],
        bytes=entry.ref.nbytes,
        resident=entry.resident,
        pinned=entry.pinned,
        leases=entry.leases,
        requests=entry.requests,
        last_used=entry.last_used or None,
        queued=sum(part.waiting for part in own),
        running=sum(part.running for part in own),
        kv_warm=sum(part.cached for part in own),
        tokens_per_second=round(rates.get(name, 0.0), 2),
    )


def _kv(stats: EngineStats) -> KvStatus:
    used, cached = sum(part.cells for part in stats.occupancy), sum(part.cached for part in stats.occupancy)
    return KvStatus(stats.kv_cells, used, cached, stats.reuse.starts, stats.reuse.hits)
