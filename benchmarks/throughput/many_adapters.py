"""`python -m benchmarks.throughput.many_adapters [--count N]`: what N installed adapters cost a start that
uses one of them.

Two homes with the built-in base: one as installed, one with N more names over the same contents (a manifest each,
as N real adapters would have; what lies behind it is only read when its adapter is used). Processes start in turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.harness.machine import describe
from edgelora.core.config import read_settings
from edgelora.store.library import open_library

CASES = {
    "`edgelora run`, one token": ("run", "--adapter", "medical-faq", "--max-tokens", "1", "What is hypertension?"),
    "`edgelora ls --json`": ("ls", "--json"),
}
_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in one unit of ru_maxrss."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput.many_adapters", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--count", type=int, default=10_000, help="adapters in the larger home (default 10000)")
    parser.add_argument("--rounds", type=int, default=7, help="starts of each kind (default 7)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        few, many = Path(scratch, "few"), Path(scratch, "many")
        installed = prepare(few, 0)
        prepare(many, options.count)
        print(f"\n| | {installed} adapters | {installed + options.count} adapters | more |\n|---|---:|---:|---:|")
        for name, command in CASES.items():
            report(name, measure(few, many, command, rounds=options.rounds))
    print(f"\nmedians of {options.rounds} starts of each kind, in turn; {describe()}")
    return 0


def prepare(home: Path, count: int) -> int:
    """Install the built-in adapters in `home`, and `count` more names; how many there were before those."""
    import msgspec

    library = open_library(read_settings({"EDGELORA_HOME": str(home), "EDGELORA_OFFLINE": "1"}))
    for name in library.store.names():
        library.store.ref(name, library.bases.current())
    manifest, folder = library.store.get("medical-faq"), library.store.root / "manifests"
    before = len(library.store.names())
    for number in range(count):
        name = f"adapter-{number:05}"
        (folder / f"{name}.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, name=name)))
    return before


def measure(few: Path, many: Path, command: Sequence[str], *, rounds: int) -> dict[Path, tuple[float, float]]:
    """For each home the median (seconds, peak bytes) of a start."""
    found: dict[Path, list[tuple[float, float]]] = {few: [], many: []}
    for home in (few, many):
        start(home, command)
    for _ in range(rounds):
        for home, results in found.items():
            results.append(start(home, command))
    middle: Callable[[Sequence[float]], float] = statistics.median
    return {home: (middle([r[0] for r in results]), middle([r[1] for r in results])) for home, results in found.items()}


def start(home: Path, command: Sequence[str]) -> tuple[float, float]:
    """One process: (seconds, peak resident bytes)."""
    environ = {**os.environ, "EDGELORA_HOME": str(home), "EDGELORA_OFFLINE": "1", "EDGELORA_THREADS": "1"}
    quiet = subprocess.DEVNULL
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "edgelora", *command], env=environ, stdout=quiet, stderr=quiet
    ) as child:
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"edgelora {' '.join(command)} ended with {child.returncode}")
    return time.perf_counter() - began, float(usage.ru_maxrss) * _UNIT


def report(name: str, results: dict[Path, tuple[float, float]]) -> None:
    (few_s, few_b), (many_s, many_b) = results.values()
    print(f"| {name} | {few_s * 1e3:.0f} ms | {many_s * 1e3:.0f} ms | {(many_s - few_s) * 1e3:+.0f} ms |")
    print(f"| its peak memory | {few_b / 1e6:.1f} MB | {many_b / 1e6:.1f} MB | {(many_b - few_b) / 1e6:+.1f} MB |")


if __name__ == "__main__":
    raise SystemExit(main())
