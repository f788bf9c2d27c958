"""`python -m benchmarks.latency.convert`: what it takes to convert an 84 MB adapter of an 8B, to each format,
with the proof.

A random PEFT adapter of rank 16 on all seven linear modules of Llama-3.1-8B's shapes, float16. Each way runs in a
process of its own, from the start of the interpreter, since that is what a user waits for: copying the same bytes;
edgelora to each format, read, written, synced and proven; and what llama.cpp's converter does, in its own terms (torch
and transformers imported, the file loaded by torch, scaled nowhere, q and k permuted, written by gguf-py in float32),
where torch is installed. Memory is the process's peak (VmHWM) beyond that of a bare interpreter; Linux only.
"""

from __future__ import annotations

import argparse
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.harness.machine import describe
from benchmarks.harness.shapes import SHAPES
from edgelora_converters.tensors.safetensors_writer import Planned, write_safetensors
from edgelora_models.modules import LINEAR_MODULES
from edgelora_models.shape import LlamaShape

SHAPE = SHAPES["llama-3.1-8b"]
RANK = 16
FORMATS = {"gguf": "GGUF", "mlx": "MLX", "mapped": "edgelora's own"}


@dataclass
class Way:
    name: str
    command: Sequence[str]
    """`OUT` stands for where the result goes."""
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    """Of all its threads: what is left of the work where the machine is busy."""
    peaks: list[int] = field(default_factory=list)
    """Bytes."""
    size: int = 0

    def run(self, folder: Path) -> None:
        out = folder / "out"
        began, before = time.perf_counter(), _children_seconds()
        done = subprocess.run(
            [str(out) if word == "OUT" else word for word in self.command], capture_output=True, text=True, check=False
        )
        self.seconds.append(time.perf_counter() - began)
        self.cpu_seconds.append(_children_seconds() - before)
        if done.returncode:
            raise RuntimeError(f"{self.name} failed:\n{done.stderr[-2000:]}")
        if done.stdout.strip():
            self.peaks.append(int(done.stdout))
        self.size = sum(path.stat().st_size for path in ([out] if out.is_file() else out.iterdir()))
        shutil.rmtree(out) if out.is_dir() else out.unlink()


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        source = write_peft(Path(temporary, "peft"), SHAPE)
        ways = _ways(source)
        order = random.Random(0)
        for way in ways:  # the caches, and the compiled modules
            way.run(Path(temporary))
            way.seconds.clear()
            way.cpu_seconds.clear()
        for _ in range(options.rounds):
            for way in order.sample(ways, len(ways)):
                way.run(Path(temporary))
    _print(ways, options.rounds)
    print(f"\n{describe()}")
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency.convert", description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="of each way (default 5)")
    parser.add_argument("--folder", type=Path, help="where to work: 500 MB (default: the system's temporary folder)")
    return parser.parse_args(arguments)


def write_peft(folder: Path, shape: LlamaShape, *, rank: int = RANK) -> Path:
    """Return a random adapter as PEFT saves one, in float16, written module by module."""
    folder.mkdir(parents=True)
    targets = ", ".join(f'"{module.short}"' for module in LINEAR_MODULES)
    config = f'{{"peft_type": "LORA", "r": {rank}, "lora_alpha": {2 * rank}, "target_modules": [{targets}]}}'
    (folder / "adapter_config.json").write_text(config)
    rng = np.random.default_rng(0)

    def planned(name: str, rows: int, columns: int) -> Planned:
        return Planned(
            name, "F16", (rows, columns), lambda: [rng.standard_normal((rows, columns), np.float32).astype(np.float16)]
        )

    tensors = [
        planned(f"base_model.model.{module.hf_path(layer)}.lora_{side}.weight", *size)
        for layer in range(shape.layers)
        for module in LINEAR_MODULES
        for side, size in (("A", (rank, module.in_features(shape))), ("B", (module.out_features(shape), rank)))
    ]
    write_safetensors(folder / "adapter_model.safetensors", tensors, metadata={"format": "pt"})
    return folder


def _ways(source: Path) -> list[Way]:
    this = [sys.executable, "-c", "from benchmarks.latency.convert_step import main; main()"]
    weights = str(source / "adapter_model.safetensors")
    ways = [
        Way("cp", ["cp", weights, "OUT"]),
        Way("a bare interpreter, reading and writing the bytes", [*this, "copy", weights, "OUT"]),
        *(Way(f"edgelora, {title}", [*this, to, str(source), "OUT"]) for to, title in FORMATS.items()),
    ]
    if find_spec("torch") and find_spec("transformers"):
        ways.append(Way("llama.cpp's way", [*this, "torch", str(source), "OUT"]))
    return ways


def _bare_peak() -> int:
    """Bytes of an interpreter that does nothing."""
    done = subprocess.run([sys.executable, "-c", _PEAK], capture_output=True, text=True, check=True)
    return int(done.stdout)


_PEAK = "print(next(int(l.split()[1]) << 10 for l in open('/proc/self/status') if l.startswith('VmHWM')))"


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _print(ways: Sequence[Way], rounds: int) -> None:
    copy, bare = statistics.median(ways[0].seconds), _bare_peak()
    upstream = next((statistics.median(way.seconds) for way in ways if way.name.startswith("llama.cpp")), None)
    print(f"\nRank {RANK} on all linear modules of an 8B, float16; median of {rounds} rounds, whole processes\n")
    print("| | s | fastest | CPU s | of cp | of llama.cpp's way | peak MB beyond the interpreter | result, MB |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for way in ways:
        median = statistics.median(way.seconds)
        beside = "" if upstream is None else f"{median / upstream:.2f}"
        peak = f"{(max(way.peaks) - bare) / 1e6:.0f}" if way.peaks else ""
        cells = (
            f"{median:.2f}",
            f"{min(way.seconds):.2f}",
            f"{statistics.median(way.cpu_seconds):.2f}",
            f"{median / copy:.1f}",
            beside,
            peak,
            f"{way.size / 1e6:.0f}",
        )
        print(f"| {way.name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    raise SystemExit(main())
