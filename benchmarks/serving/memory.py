"""`python -m benchmarks.serving.memory`: what k adapters in memory add to the base alone.

In one process: the base is opened and computes some tokens, then adapters are loaded one after the other, each computes
some, and memory is read at k = 1, 8, 32, 100. Without arguments the built-in base and random adapters of rank 16 on
all linear modules; with --base and --adapters those. Pages of files are counted apart: they belong to the page cache,
are shared by every process that maps the same file, and can be dropped. Linux only (/proc/self/smaps_rollup).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.harness.adapters import mapped_copies
from benchmarks.harness.machine import describe
from benchmarks.harness.pages import usage
from edgelora.backends.base import Applied, Chunk
from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora.backends.llama_cpp.options import BackendOptions
from edgelora_converters.lora.adapter import LoraAdapter, LoraPair, Target
from edgelora_converters.mapped import writer as mapped_writer
from edgelora_models import builtin
from edgelora_models.gguf_base import read_shape
from edgelora_models.gguf_header import read_header
from edgelora_models.modules import LINEAR_MODULES
from edgelora_models.shape import LlamaShape

COUNTS = (1, 8, 32, 100)
RANK = 16
KINDS = ("rss", "anonymous", "file", "pss")


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    if (options.base is None) != (options.adapters is None):
        print("Give --base and --adapters together, or neither.")
        return 2
    if not Path("/proc/self/smaps_rollup").exists():
        print("This system does not tell what of a process is in memory.")
        return 2
    base = options.base or builtin.base_gguf()
    shape = read_shape(read_header(base))
    with _adapters(options.adapters, shape) as paths:
        if not paths:
            print(f"There is no adapter (*.gguf) in {options.adapters}.")
            return 2
        _measure(base, shape, paths, threads=options.threads)
    print(f"\n{describe()}")
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.memory", description=__doc__.split("\n\n")[0])
    parser.add_argument("--base", type=Path, help="a GGUF base (default: the built-in one)")
    parser.add_argument("--adapters", type=Path, help="a folder of GGUF adapters for it")
    parser.add_argument("--threads", type=int, default=None, help="compute threads (default: physical cores)")
    return parser.parse_args(arguments)


@contextmanager
def _adapters(folder: Path | None, shape: LlamaShape) -> Iterator[Sequence[Path]]:
    if folder is not None:
        paths = sorted(folder.glob("*.gguf"))
        if not paths:
            yield []
            return
        with mapped_copies(paths, shape) as copies:
            yield copies
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield [_random(Path(temporary, f"{n:03}{mapped_writer.SUFFIX}"), shape, seed=n) for n in range(COUNTS[-1])]


def _random(path: Path, shape: LlamaShape, *, seed: int) -> Path:
    """As PEFT would have saved one in float16."""
    rng = np.random.default_rng(seed)

    def factor(rows: int, columns: int) -> np.ndarray:
        return (rng.standard_normal((rows, columns)) * 0.01).astype(np.float16).astype(np.float32)

    pairs = {
        Target(layer, module): LoraPair(
            factor(RANK, module.in_features(shape)), factor(module.out_features(shape), RANK), 2.0
        )
        for layer in range(shape.layers)
        for module in LINEAR_MODULES
    }
    mapped_writer.write(LoraAdapter(pairs, source_digest="0" * 64, base_model=None), shape, path, provenance={})
    return path


def _measure(base: Path, shape: LlamaShape, paths: Sequence[Path], *, threads: int | None) -> None:
    settings = BackendOptions(
        context_length=64, max_sequences=1, max_step_tokens=16, max_slots=len(paths), kv_cells=256, threads=threads
    )
    counts = [count for count in COUNTS if count < len(paths)] + [len(paths)]
    print(f"\n{base.name}, adapters of {paths[0].stat().st_size / 1e6:.2f} MB; MB in memory\n")
    backend = LlamaCppBackend.open(base, shape=shape, settings=settings)
    for _ in range(3):
        _step(backend, None)
    before = usage()
    print("| | rss | anonymous | pages of files | pss | more rss / size of the files | anonymous, each |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    print("| the base | " + " | ".join(f"{before[kind] / 1e6:.1f}" for kind in KINDS) + " | | |")
    for slot, path in enumerate(paths):
        backend.attach(slot, backend.load(path))
        _step(backend, slot)
        if slot + 1 in counts:
            _row(slot + 1, before, sum(p.stat().st_size for p in paths[: slot + 1]))
    backend.close()


def _step(backend: LlamaCppBackend, slot: int | None) -> None:
    applied = () if slot is None else (Applied(slot),)
    backend.step([Chunk(0, 0, tuple(range(10, 26)), applied, True)])
    backend.clear(0)


def _row(count: int, before: dict[str, int], size: int) -> None:
    now = usage()
    more = {kind: now[kind] - before[kind] for kind in KINDS}
    cells = [f"+{more[kind] / 1e6:.1f}" for kind in KINDS]
    cells += [f"{more['rss'] / size:.3f}", f"{more['anonymous'] / count / 1e6:.3f}"]
    print(f"| + {count} adapter{'s' if count > 1 else ''} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    raise SystemExit(main())
