"""The server that is killed: `python -m tests.chaos.host HOME PORT fake|real`. As `edgelora serve` has it."""

from __future__ import annotations

import sys
from pathlib import Path

from edgelora.config import read_settings
from edgelora.keys.token import ensure_token
from edgelora.library import open_library
from edgelora.server.options import ServerOptions
from edgelora.server.run import run
from edgelora.service import Service

ADAPTER_BYTES = 64 << 20


def main() -> None:
    home, port, kind = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    settings = read_settings({"EDGELORA_HOME": str(home), "EDGELORA_THREADS": "1", "EDGELORA_QUEUE": "4"})
    service = Service.supervised(settings) if kind == "real" else _fake(home)
    ensure_token(settings.directories.config)
    options = ServerOptions(host="127.0.0.1", port=port, drain_seconds=1.0, secrets=settings.directories.config)
    with service:
        run(service, options, on_ready=lambda urls: print(urls[0], flush=True))


def _fake(home: Path) -> Service:
    from edgelora.backends.fake_vocabulary import FakeVocabulary
    from edgelora.supervisor.remote import RemoteEngine
    from tests.support.engines import QUICK
    from tests.support.openers import opening

    settings = read_settings({"EDGELORA_HOME": str(home)})
    library = open_library(settings)
    first = opening(budget=ADAPTER_BYTES, max_queue=4, step_seconds=0.002)
    engine = RemoteEngine(
        first,
        vocabulary=FakeVocabulary(),
        quarantine=library.quarantine(),
        printed=settings.directories.state / "engine.log",
        times=QUICK,
    )
    return Service(library, library.bases.current(), engine)


if __name__ == "__main__":
    main()
