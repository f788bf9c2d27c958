"""The server that is killed: `python -m tests.system.chaos.host HOME PORT fake|real`. As `edgelora serve` has it."""

from __future__ import annotations

import sys
from pathlib import Path

from edgelora.core.config import Settings, read_settings
from edgelora.engine.client import EngineClient
from edgelora.engine.process.remote import RemoteEngine
from edgelora.engine.process.watchdog import WatchdogTimes
from edgelora.runtime.engine_process import start_engine
from edgelora.runtime.opening.plan import plan_setup
from edgelora.runtime.service import Service
from edgelora.server.http.options import ServerOptions
from edgelora.server.run import run
from edgelora.store.keys.management_token import ensure_token
from edgelora.store.library import Library, open_library
from tests.support.fake_backend.tokenizer import FakeTokenizer
from tests.support.openers import opening

TIMES = WatchdogTimes(least_delay=0.05, most_delay=0.2)
"""Nobody waits half a minute for the next start here: every process is killed."""


def main() -> None:
    home, port, kind = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    settings = read_settings({"EDGELORA_HOME": str(home), "EDGELORA_THREADS": "1", "EDGELORA_QUEUE": "4"})
    library = open_library(settings)
    service = Service(library, library.bases.current(), _engine(library, settings, kind))
    ensure_token(settings.directories.config)
    options = ServerOptions(host="127.0.0.1", port=port, drain_seconds=1.0, secrets=settings.directories.config)
    with service:
        run(service, options, on_ready=lambda urls: print(urls[0], flush=True))


def _engine(library: Library, settings: Settings, kind: str) -> EngineClient:
    record = library.bases.current()
    if kind == "real":
        return start_engine(library, record, plan_setup(record, settings), settings, times=TIMES)
    first = opening(budget=settings.adapter_budget_bytes, max_queue=settings.max_queue, step_seconds=0.002)
    return RemoteEngine(first, tokenizer=FakeTokenizer(), quarantine=library.quarantine(), times=TIMES)


if __name__ == "__main__":
    main()
