"""`python -m benchmarks.harness.make_base llama-3.1-8b`: a random base with a real model's exact shapes, and
adapters for it.

Matrices have the types of llama.cpp's Q4_K_M mix, so that a step reads the bytes a real one would; the answers are
noise. Tensors are made and written one at a time; the largest is 0.4 GB. `--format mlx`: an MLX folder of 4 bits in
place of the GGUF file (`make_mlx_base`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import numpy as np
import platformdirs
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

from benchmarks.harness.blocks import Q4_K_BYTES, Q6_K_BYTES, WEIGHTS_PER_BLOCK, q4_k, q6_k
from benchmarks.harness.shapes import CHAT_TEMPLATE, CONTEXT_LENGTH, CONTROL_TOKENS, ROPE_THETA, SHAPES, tokens
from edgelora_converters.oracle.llama import llama3_factors
from edgelora_models.modules import LINEAR_MODULES, LinearModule
from edgelora_models.shape import LlamaShape


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor to write: its stored size, and how to make it."""

    name: str
    stored: tuple[int, ...]
    """Shape of the stored array: bytes for quantized types, elements otherwise."""
    type: Type
    make: Callable[[np.random.Generator], NDArray[np.generic]]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.stored)) * {Type.F32: 4, Type.F16: 2}.get(self.type, 1)


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    shape = SHAPES[options.model]
    if options.layers:
        shape = replace(shape, layers=options.layers)
    out: Path = options.out or default_folder(options.model, shape)
    if out.resolve().is_relative_to(Path(__file__).resolve().parents[1]):
        print("The base is gigabytes of noise: give --out a folder outside the repository.", file=sys.stderr)
        return 2
    (out / "adapters").mkdir(parents=True, exist_ok=True)
    mlx = options.format == "mlx"
    base = out / ("base-mlx-4bit" if mlx else "base-Q4_K_M.gguf")
    if mlx:
        from benchmarks.harness.make_mlx_base import write_mlx_base

        _report(write_mlx_base, base, shape)
    else:
        _report(write_base, base, shape)
    for number in range(options.adapters):
        _report(write_adapter, out / "adapters" / f"{number:02}-rank-{options.rank}.gguf", shape, number, options.rank)
    print(f"Now: python -m benchmarks.throughput.decode --base {base} --adapters {out / 'adapters'}")
    return 0


def default_folder(model: str, shape: LlamaShape) -> Path:
    """Return a folder of this shape's own, in the user's cache."""
    cache = Path(platformdirs.user_cache_dir("edgelora", appauthor=False))
    return cache / "benchmarks" / f"{model}-random-{shape.layers}-layers"


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.harness.make_base", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("model", choices=sorted(SHAPES))
    parser.add_argument("--format", choices=["gguf", "mlx"], default="gguf", help="which backend's (default gguf)")
    parser.add_argument("--out", type=Path, help="folder to write to (default: the user's cache folder)")
    parser.add_argument("--adapters", type=int, default=8, help="how many adapters, on all seven modules (default 8)")
    parser.add_argument("--rank", type=int, default=16, help="their rank (default 16)")
    parser.add_argument("--layers", type=int, default=0, help="fewer layers, for a quick try")
    return parser.parse_args(arguments)


def _report(write: Callable[..., None], path: Path, *rest: object) -> None:
    start = time.perf_counter()
    write(path, *rest)
    nbytes = sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))
    print(f"{path}  {nbytes / 1e9:.2f} GB  {time.perf_counter() - start:.0f} s")


def write_base(path: Path, shape: LlamaShape) -> None:
    writer = gguf.GGUFWriter(str(path), "llama")
    _write_header(writer, shape)
    _write_vocabulary(writer, shape.vocab)
    _write(writer, list(base_tensors(shape)), seed=0)


def write_adapter(path: Path, shape: LlamaShape, number: int, rank: int) -> None:
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 0.0)
    _write(writer, list(adapter_tensors(shape, rank)), seed=1 + number)


def _write(writer: gguf.GGUFWriter, tensors: list[Tensor], *, seed: int) -> None:
    for tensor in tensors:
        dtype = np.dtype({Type.F32: "<f4", Type.F16: "<f2"}.get(tensor.type, "u1"))
        writer.add_tensor_info(tensor.name, tensor.stored, dtype, tensor.nbytes, raw_dtype=tensor.type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(seed)
    for tensor in tensors:
        writer.write_tensor_data(tensor.make(rng))
    writer.close()


def base_tensors(shape: LlamaShape) -> Iterator[Tensor]:
    factors = llama3_factors(
        theta=ROPE_THETA, head_dim=shape.head_dim, factor=8.0, low=1.0, high=4.0, original_context=8192
    )
    yield _matrix("token_embd.weight", shape.vocab, shape.hidden, Type.Q4_K)
    yield _vector("rope_freqs.weight", np.asarray(factors, np.float32))
    for layer in range(shape.layers):
        for norm in ("attn_norm", "ffn_norm"):
            yield _vector(f"blk.{layer}.{norm}.weight", np.ones(shape.hidden, np.float32))
        for module in LINEAR_MODULES:
            kind = _matrix_type(module, layer, shape.layers)
            yield _matrix(module.gguf_path(layer), module.out_features(shape), module.in_features(shape), kind)
    yield _vector("output_norm.weight", np.ones(shape.hidden, np.float32))
    yield _matrix("output.weight", shape.vocab, shape.hidden, Type.Q6_K)


def _matrix_type(module: LinearModule, layer: int, layers: int) -> Type:
    """llama.cpp's Q4_K_M: value and down projections get more bits at both ends and in every third layer between."""
    more = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
    return Type.Q6_K if more and module.gguf in ("attn_v", "ffn_down") else Type.Q4_K


def _matrix(name: str, rows: int, width: int, kind: Type) -> Tensor:
    make, size = (q4_k, Q4_K_BYTES) if kind == Type.Q4_K else (q6_k, Q6_K_BYTES)
    return Tensor(name, (rows, width // WEIGHTS_PER_BLOCK * size), kind, lambda rng: make(rng, rows, width))


def _vector(name: str, values: NDArray[np.float32]) -> Tensor:
    return Tensor(name, values.shape, Type.F32, lambda _rng: values)


def adapter_tensors(shape: LlamaShape, rank: int) -> Iterator[Tensor]:
    for layer in range(shape.layers):
        for module in LINEAR_MODULES:
            width, out = module.in_features(shape), module.out_features(shape)
            yield _normal(f"{module.gguf_path(layer)}.lora_a", (rank, width), 1.0 / np.sqrt(width))
            yield _normal(f"{module.gguf_path(layer)}.lora_b", (out, rank), 0.02)


def _normal(name: str, shape: tuple[int, int], deviation: float) -> Tensor:
    def make(rng: np.random.Generator) -> NDArray[np.generic]:
        return (rng.standard_normal(shape, np.float32) * deviation).astype(np.float16)

    return Tensor(name, shape, Type.F16, make)


def _write_header(writer: gguf.GGUFWriter, shape: LlamaShape) -> None:
    writer.add_name("random weights in the shapes of Llama-3.1-8B")
    writer.add_block_count(shape.layers)
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(ROPE_THETA)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_vocab_size(shape.vocab)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)


def _write_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens(size))
    kinds = [gguf.TokenType.NORMAL] * (size - CONTROL_TOKENS) + [gguf.TokenType.CONTROL] * CONTROL_TOKENS
    writer.add_token_types(kinds)
    writer.add_token_merges(["w 0"])
    writer.add_bos_token_id(size - CONTROL_TOKENS)
    writer.add_eos_token_id(size - CONTROL_TOKENS + 9)
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHAT_TEMPLATE)


if __name__ == "__main__":
    raise SystemExit(main())
