"""`python -m benchmarks.convert`: what it takes to convert an 84 MB adapter of an 8B, to each format, with the proof.

A random PEFT adapter of rank 16 on all seven linear modules of Llama-3.1-8B's shapes, float16. Each way runs in a
process of its own, from the start of the interpreter, since that is what a user waits for: copying the same bytes;
edgelora to each format, read, written, synced and proven; and what llama.cpp's converter does, in its own terms (torch
and transformers imported, the file loaded by torch, scaled nowhere, q and k permuted, written by gguf-py in float32),
where torch is installed. Memory is the process's peak (VmHWM) beyond that of a bare interpreter; Linux only.
"""

from __future__ import annotations

import argparse
import random
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

from benchmarks.machine import describe
from benchmarks.make_base import SHAPES
from edgelora_converters.safetensors_writer import Planned, write_safetensors
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
    peaks: list[int] = field(default_factory=list)
    """Bytes."""
    size: int = 0

    def run(self, folder: Path) -> None:
        out = folder / "out"
        began = time.perf_counter()
        done = subprocess.run(
            [str(out) if word == "OUT" else word for word in self.command], capture_output=True, text=True, check=False
        )
        self.seconds.append(time.perf_counter() - began)
        if done.returncode:
            raise RuntimeError(f"{self.name} failed:\n{done.stderr[-2000:]}")
        if done.stdout.strip():
            self.peaks.append(int(done.stdout.split()[-1]))
        self.size = sum(path.stat().st_size for path in ([out] if out.is_file() else out.iterdir()))
        shutil.rmtree(out) if out.is_dir() else out.unlink()


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    if options.step is not None:
        return _step(*options.step)
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        source = write_peft(Path(temporary, "peft"), SHAPE)
        ways = _ways(source)
        order = random.Random(0)
        for way in ways:  # the caches, and the compiled modules
            way.run(Path(temporary))
            way.seconds.clear()
        for _ in range(options.rounds):
            for way in order.sample(ways, len(ways)):
                way.run(Path(temporary))
    _print(ways, options.rounds)
    print(f"\n{describe()}")
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convert", description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="of each way (default 5)")
    parser.add_argument("--folder", type=Path, help="where to work: 500 MB (default: the system's temporary folder)")
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)  # one way, in its own process
    return parser.parse_args(arguments)


def write_peft(folder: Path, shape: LlamaShape, *, rank: int = RANK) -> Path:
    """A random adapter as PEFT saves one, in float16, written module by module."""
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
    this = [sys.executable, "-m", "benchmarks.convert", "--step"]
    weights = str(source / "adapter_model.safetensors")
    ways = [
        Way("cp", ["cp", weights, "OUT"]),
        Way("a bare interpreter, reading and writing the bytes", [*this, "copy", weights, "OUT"]),
        *(Way(f"edgelora, {title}", [*this, to, str(source), "OUT"]) for to, title in FORMATS.items()),
    ]
    if find_spec("torch") and find_spec("transformers"):
        ways.append(Way("llama.cpp's way", [*this, "torch", str(source), "OUT"]))
    return ways


def _step(what: str, source: str, out: str) -> int:
    """One conversion in this process; its peak memory beyond a bare interpreter's is the last word printed."""
    before = _bare_peak()
    {"copy": _copy, "torch": _like_llama_cpp}.get(what, lambda a, b: _convert(what, a, b))(Path(source), Path(out))
    print(_peak("self") - before)
    return 0


def _copy(source: Path, out: Path) -> None:
    with source.open("rb") as read, out.open("wb") as write:
        shutil.copyfileobj(read, write, 1 << 20)


def _convert(to: str, source: Path, out: Path) -> None:
    from edgelora_converters.convert import convert
    from edgelora_models.fingerprint import BaseFingerprint

    base = BaseFingerprint("llama", SHAPE, vocabulary="0" * 64, template="0" * 64)
    convert(source, out, to=to, base=base)  # type: ignore[arg-type]


def _like_llama_cpp(source: Path, out: Path) -> None:
    """The steps of llama.cpp's convert_lora_to_gguf.py for a plain adapter, with its default output type, float32."""
    import gguf
    import torch
    import transformers  # noqa: F401  # it imports the base's converter, which does
    from safetensors.torch import load_file

    tensors = load_file(source / "adapter_model.safetensors", device="cpu")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, SHAPE.layers)
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 2.0 * RANK)
    with torch.no_grad():
        for key, tensor in tensors.items():
            path, _, side = key.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".lora_")
            heads = {"q_proj": SHAPE.heads, "k_proj": SHAPE.kv_heads}.get(path.rpartition(".")[2])
            data = tensor.to(torch.float32)
            if heads and side == "B":
                data = data.reshape(heads, 2, -1, data.shape[1]).swapaxes(1, 2).reshape(data.shape)
            name = names.get_name(f"{path}.weight", try_suffixes=(".weight",))
            writer.add_tensor(f"{name}.lora_{side.lower()}", data.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _bare_peak() -> int:
    done = subprocess.run([sys.executable, "-c", _PEAK], capture_output=True, text=True, check=True)
    return int(done.stdout)


_PEAK = "print(next(int(l.split()[1]) << 10 for l in open('/proc/self/status') if l.startswith('VmHWM')))"


def _peak(process: str) -> int:
    lines = Path("/proc", process, "status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


def _print(ways: Sequence[Way], rounds: int) -> None:
    copy = statistics.median(ways[0].seconds)
    upstream = next((statistics.median(way.seconds) for way in ways if way.name.startswith("llama.cpp")), None)
    print(f"\nRank {RANK} on all linear modules of an 8B, float16; median of {rounds} rounds, whole processes\n")
    print("| | s | fastest | of cp | of llama.cpp's way | peak MB beyond the interpreter | result, MB |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for way in ways:
        median = statistics.median(way.seconds)
        beside = "" if upstream is None else f"{median / upstream:.2f}"
        peak = f"{max(way.peaks) / 1e6:.0f}" if way.peaks else ""
        cells = (
            f"{median:.2f}",
            f"{min(way.seconds):.2f}",
            f"{median / copy:.1f}",
            beside,
            peak,
            f"{way.size / 1e6:.0f}",
        )
        print(f"| {way.name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    raise SystemExit(main())
