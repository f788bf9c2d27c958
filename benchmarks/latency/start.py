"""`python -m benchmarks.latency.start [--base FILE]`: how long a start takes, and what the two ways to hold
the weights cost.

Processes, in turns: `python -c pass` and `edgelora --help`; one answer of one token on the built-in base, and on FILE
where one is given, with the weights mapped and repacked. The first start of each is not counted: it brings the file
into the system's cache. Then, in one process with both, a step of one row, of eight sequences, of a prompt's piece.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from benchmarks.harness.machine import describe
from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora.backends.llama_cpp.options import BackendOptions
from edgelora.core.config import Weights
from edgelora.core.machine import usable_cores
from edgelora.runtime.tuning.search import Workload
from edgelora.runtime.tuning.trial import TimedBackend
from edgelora_models.builtin import base_gguf
from edgelora_models.gguf_base import read_shape
from edgelora_models.gguf_header import read_header

WAYS: tuple[Weights, ...] = get_args(Weights)
STEP_TURNS = 7


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    if options.open:
        print(json.dumps(measure_open(options.open, options.weights)))
        return 0
    bases = [base_gguf(), *([options.base] if options.base else [])]
    print(f"\nmedian of {options.rounds} processes in turns\n\n| process | ms |\n|---|---:|")
    for name, milliseconds in processes(bases, options.rounds).items():
        print(f"| {name} | {milliseconds:.0f} |")
    print("\n| base | weights | s to open | memory of its own | file cache it shares | ms, 1 row | 8 rows | 64 rows |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for base in bases:
        opened = {way: opens(base, way, options.rounds) for way in WAYS}
        steps = step_times(base)
        for way, (seconds, anonymous, shared) in opened.items():
            times = " | ".join(f"{1e3 * steps[way][work]:.1f}" for work in Workload)
            print(f"| {base.name} | {way} | {seconds:.2f} | {_gb(anonymous)} | {_gb(shared)} | {times} |")
    print(f"\n{describe()}")
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency.start", description=__doc__.split("\n\n")[0])
    parser.add_argument("--base", type=Path, help="a large GGUF base (see benchmarks.harness.make_base)")
    parser.add_argument("--rounds", type=int, default=5, help="timed processes of each kind (default 5)")
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--weights", choices=WAYS, default="mapped", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def processes(bases: Sequence[Path], rounds: int) -> dict[str, float]:
    """Milliseconds of each kind of process, the median of turns in changing order."""
    edgelora = [sys.executable, "-m", "edgelora"]
    commands = {"python -c pass": [sys.executable, "-c", "pass"], "edgelora --help": [*edgelora, "--help"]}
    with tempfile.TemporaryDirectory() as home:
        environ = os.environ | {"EDGELORA_HOME": home, "EDGELORA_OFFLINE": "1"}
        for number, base in enumerate(bases):
            _run([*edgelora, "base", "add", str(base), "--name", f"base-{number}"], environ)
            for way in WAYS:
                ask = ["run", "--base", f"base-{number}", "--weights", way, "--max-tokens", "1", "Hi"]
                commands[f"edgelora run, one token, {base.name}, {way}"] = [*edgelora, *ask]
        for command in commands.values():
            _run(command, environ)
        found: dict[str, list[float]] = {name: [] for name in commands}
        order = random.Random(0)
        for _ in range(rounds):
            for name, command in order.sample(list(commands.items()), len(commands)):
                found[name].append(_run(command, environ))
    return {name: 1e3 * statistics.median(times) for name, times in found.items()}


def _run(command: Sequence[str], environ: Mapping[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return time.perf_counter() - began


def opens(base: Path, weights: Weights, rounds: int) -> tuple[float, float, float]:
    """Opening it in a process of its own: median seconds, and the bytes of its own and of the file it then holds."""
    command = [sys.executable, "-m", "benchmarks.latency.start", "--open", str(base), "--weights", weights]
    found = [
        json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout) for _ in range(rounds)
    ]
    seconds, anonymous, shared = (statistics.median(column) for column in zip(*found, strict=True))
    return seconds, anonymous, shared


def measure_open(base: Path, weights: Weights) -> tuple[float, int, int]:
    """Seconds to open it here, and the bytes this process then has of its own and of files, which others share."""
    options = BackendOptions(weights=weights)
    began = time.perf_counter()
    backend = LlamaCppBackend.open(base, shape=read_shape(read_header(base)), settings=options)
    seconds = time.perf_counter() - began
    held = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    backend.close()
    anonymous, shared = (1024 * int(held[name].split()[0]) for name in ("RssAnon", "RssFile"))
    return seconds, anonymous, shared


def step_times(base: Path) -> dict[Weights, dict[Workload, float]]:
    """Seconds of a step of each kind, the median of turns in changing order, both ways open in this process."""
    shape, threads, order = read_shape(read_header(base)), usable_cores(), random.Random(0)
    trials = {way: TimedBackend.open(base, shape=shape, weights=way, kernel="auto", progress=None) for way in WAYS}
    found: dict[Weights, dict[Workload, list[float]]] = {way: {work: [] for work in Workload} for way in WAYS}
    for _ in range(STEP_TURNS):
        for way, trial in order.sample(list(trials.items()), len(trials)):
            for work in Workload:
                found[way][work].append(trial.seconds(work, threads))
    for trial in trials.values():
        trial.close()
    return {way: {work: statistics.median(times) for work, times in works.items()} for way, works in found.items()}


def _gb(nbytes: float) -> str:
    return f"{nbytes / 1e9:.2f} GB"


if __name__ == "__main__":
    raise SystemExit(main())
