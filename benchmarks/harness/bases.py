"""A base for a benchmark, opened by what it is: a GGUF file by llama.cpp, an MLX folder by MLX. Adapters for either."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness.adapters import mapped_copies
from edgelora.backends.base import Backend
from edgelora.backends.llama_cpp.options import BackendOptions
from edgelora_models.identity import identify_folder, identify_gguf
from edgelora_models.shape import LlamaShape

BASE_HELP = "a GGUF base, or an MLX folder (see benchmarks.harness.make_base)"


def shape_of(base: Path) -> LlamaShape:
    return (identify_folder(base) if base.is_dir() else identify_gguf(base)).fingerprint.shape


def nbytes_of(base: Path) -> int:
    return (identify_folder(base) if base.is_dir() else identify_gguf(base)).nbytes


def open_base(base: Path, options: BackendOptions) -> Backend:
    """`options` are llama.cpp's; MLX takes those that it has, and as many threads as it likes."""
    if not base.is_dir():
        from edgelora.backends.llama_cpp.backend import LlamaCppBackend

        return LlamaCppBackend.open(base, shape=shape_of(base), settings=options)
    from edgelora.backends.mlx.open import open_mlx
    from edgelora.backends.mlx.options import MlxOptions

    return open_mlx(
        base,
        shape=shape_of(base),
        options=MlxOptions(
            context_length=options.context_length,
            max_sequences=options.max_sequences,
            max_step_tokens=options.max_step_tokens,
            max_slots=options.max_slots,
            kv_cells=options.kv_cells,
            max_outputs=options.max_outputs,
        ),
    )


@contextmanager
def adapter_files(folder: Path, base: Path, count: int) -> Iterator[Sequence[Path]]:
    """The first GGUF adapters of `folder` in a form that the base's backend loads; fewer where there are fewer."""
    paths = sorted(folder.glob("*.gguf"))[:count]
    if not base.is_dir() or not paths:
        yield paths
        return
    with mapped_copies(paths, shape_of(base)) as copies:
        yield copies


def computed_by(base: Path) -> str:
    """Return what stands in a benchmark's last line."""
    return mlx_here() if base.is_dir() else "llama.cpp"


def mlx_here() -> str:
    """MLX on a CPU says nothing of MLX on Metal."""
    from edgelora.backends.mlx.limits import working_set

    return "MLX on a CPU, which promises nothing for Metal" if working_set() is None else "MLX on Metal"
