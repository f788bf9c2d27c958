"""GET /v1/status: what the server holds and does now, for `edgelora ps`, the page at / and other programs."""

from __future__ import annotations

import os
import time
from typing import Any

import msgspec
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from edgelora.adapters.pool import PoolEntry
from edgelora.machine import ProcessMemory
from edgelora.occupancy import Occupancy
from edgelora.server.counters import Counters
from edgelora.server.follow import Drain
from edgelora.server.runtime import Runtime
from edgelora.server.snapshot import Snapshot, take_snapshot

_Fields = dict[str, Any]


class StatusRoutes:
    def __init__(self, runtime: Runtime, counters: Counters, drain: Drain) -> None:
        self._runtime = runtime
        self._counters = counters
        self._drain = drain

    async def status(self, _request: Request) -> Response:
        snapshot = await to_thread.run_sync(take_snapshot, self._runtime, self._counters.started)
        return Response(
            msgspec.json.encode(self._fields(snapshot)),
            media_type="application/json",
            headers={"cache-control": "no-store"},
        )

    def _fields(self, snapshot: Snapshot) -> _Fields:
        from edgelora import __version__

        stats, health, runtime = snapshot.stats, snapshot.health, self._runtime
        rates = self._counters.speed.rates(time.monotonic())
        setup = runtime.setup
        return {
            "object": "edgelora.status",
            "version": __version__,
            "pid": os.getpid(),
            "uptime_seconds": round(snapshot.uptime, 3),
            "ready": health.state == "ready" and not self._drain.begun,
            "engine": {
                "state": health.state,
                "why": health.why or None,
                "restarts": health.restarts,
                "pid": health.pid,
            },
            "base": {
                "name": runtime.base.name,
                "backend": runtime.backend_name,
                "setup": None if setup is None else str(setup),
            },
            "requests": {"running": stats.running, "queued": stats.queued, "queue_limit": stats.max_queue},
            "speed": {
                "tokens_per_second": round(sum(rates.values()), 2),
                "first_token_seconds": self._counters.recent_first_token,
            },
            "memory": {name: _memory(one) for name, one in snapshot.memory.items()},
            "adapters": {
                "bytes": sum(entry.ref.nbytes for entry in stats.adapters),
                "budget_bytes": stats.adapter_budget_bytes,
                "data": [_adapter(entry, stats.occupancy, rates) for entry in reversed(stats.adapters)],
            },
            "kv": {
                "cells": stats.kv_cells,
                "used": sum(one.cells for one in stats.occupancy),
                "warm": sum(one.warm for one in stats.occupancy),
                "prefix_lookups": stats.reuse.starts,
                "prefix_hits": stats.reuse.hits,
            },
            "drafts": {"tokens": stats.drafted, "accepted": stats.accepted},
        }


def _memory(one: ProcessMemory) -> _Fields:
    return {"resident_bytes": one.resident, "peak_bytes": one.peak}


def _adapter(entry: PoolEntry, occupancy: tuple[Occupancy, ...], rates: dict[str, float]) -> _Fields:
    """Most recently used first. What is told by name holds for all versions of that name that are there."""
    name = entry.ref.name
    mine = [one for one in occupancy if name in one.adapters]
    return {
        "name": name,
        "version": entry.ref.version[:12],
        "bytes": entry.ref.nbytes,
        "resident": entry.resident,
        "pinned": entry.pinned,
        "leases": entry.leases,
        "requests": entry.requests,
        "last_used": entry.last_used or None,
        "queued": sum(one.waiting for one in mine),
        "running": sum(one.running for one in mine),
        "kv_warm": sum(one.warm for one in mine),
        "tokens_per_second": round(rates.get(name, 0.0), 2),
    }
