"""GET /v1/status: what the server holds and does now, for `edgelora ps`, the page at / and other programs."""

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
    """How it is held, for people."""


class EngineStatus(Struct, frozen=True):
    state: EngineState
    why: str | None
    """In one sentence, where it is not ready."""
    restarts: int
    pid: int | None


class RequestsStatus(Struct, frozen=True):
    running: int
    queued: int
    queue_limit: int


class SpeedStatus(Struct, frozen=True):
    tokens_per_second: float
    """Over the last ten seconds."""
    first_token_seconds: float | None
    """Median of the last hundred."""


class MemoryStatus(Struct, frozen=True):
    resident_bytes: int
    """Mapped files included."""
    peak_bytes: int | None


class ResidentAdapter(Struct, frozen=True):
    """What is told by name holds for all versions of that name that are there."""

    name: str
    version: str
    bytes: int
    resident: bool
    """False while it is being loaded."""
    pinned: bool
    leases: int
    """Live requests that hold it."""
    requests: int
    """That held it since it came."""
    last_used: float | None
    """Unix seconds."""
    queued: int
    running: int
    kv_warm: int
    """Tokens of KV that ended requests left."""
    tokens_per_second: float


class AdaptersStatus(Struct, frozen=True):
    bytes: int
    budget_bytes: int
    data: list[ResidentAdapter]
    """Most recently used first."""


class KvStatus(Struct, frozen=True):
    """In tokens."""

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
    """Of the process `server`, of `engine` where that is another one; `mlx` is what MLX's allocator counts of it."""
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
                "GET", "/v1/status", self.status, Access.FULL_KEY, "status", "What the server holds and does now",
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
    found = {name: MemoryStatus(one.resident, one.peak) for name, one in snapshot.memory.items()}
    if (peak := snapshot.stats.allocated_peak_bytes) > 0:
        found["mlx"] = MemoryStatus(snapshot.stats.allocated_bytes, peak)
    return found


def _adapters(stats: EngineStats, rates: dict[str, float]) -> AdaptersStatus:
    data = [_adapter(entry, stats.occupancy, rates) for entry in reversed(stats.adapters)]
    return AdaptersStatus(sum(one.bytes for one in data), stats.adapter_budget_bytes, data)


def _adapter(entry: PoolEntry, occupancy: tuple[Occupancy, ...], rates: dict[str, float]) -> ResidentAdapter:
    name = entry.ref.name
    mine = [one for one in occupancy if name in one.adapters]
    return ResidentAdapter(
        name=name,
        version=entry.ref.version[:12],
        bytes=entry.ref.nbytes,
        resident=entry.resident,
        pinned=entry.pinned,
        leases=entry.leases,
        requests=entry.requests,
        last_used=entry.last_used or None,
        queued=sum(one.waiting for one in mine),
        running=sum(one.running for one in mine),
        kv_warm=sum(one.warm for one in mine),
        tokens_per_second=round(rates.get(name, 0.0), 2),
    )


def _kv(stats: EngineStats) -> KvStatus:
    used, warm = (sum(getattr(one, part) for one in stats.occupancy) for part in ("cells", "warm"))
    return KvStatus(stats.kv_cells, used, warm, stats.reuse.starts, stats.reuse.hits)
