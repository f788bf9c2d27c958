"""The bases that can be pulled by a short name: where their builds lie on Hugging Face. Owns no download.

Repositories, file names and sizes as listed on huggingface.co in 2026; the sha256 of each file comes from the hub's own
metadata when it is pulled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgelora_models.checkpoints import checkpoint
from edgelora_models.errors import NotFound
from edgelora_models.shape import LlamaShape

Format = Literal["gguf", "mlx"]


@dataclass(frozen=True, slots=True)
class Build:
    """A quantized build of a base in one repository."""

    format: Format
    repository: str
    files: tuple[str, ...]
    """Files needed to load the base: the GGUF file, or all files of the MLX folder."""
    quantization: str
    nbytes: int
    """About how large the download is."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A base, whatever its build."""

    name: str
    title: str
    model: str
    """The checkpoint's own name on the Hugging Face hub."""
    shape: LlamaShape
    same_shape: tuple[str, ...]
    """Other checkpoints of that shape, for whose adapters it is enough to convert them."""
    licence: str
    """Licence of the weights, and where to read it."""
    aliases: tuple[str, ...]
    """Other names that people and hosted services use."""
    builds: tuple[Build, ...]
    temperature: float
    """The makers' sampling defaults (generation_config.json)."""
    top_p: float

    def build(self, format: Format) -> Build:
        return next(build for build in self.builds if build.format == format)


ENTRIES: tuple[Entry, ...] = (
    Entry(
        name="llama-3.1-8b",
        title="Meta Llama 3.1 8B Instruct",
        model="meta-llama/Llama-3.1-8B-Instruct",
        shape=LlamaShape(
            layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128, ffn=14336, vocab=128256, tied=False
        ),
        same_shape=(
            "meta-llama/Llama-3.1-8B",
            "meta-llama/Meta-Llama-3-8B",
            "meta-llama/Meta-Llama-3-8B-Instruct",
        ),
        licence="Llama 3.1 Community License, https://www.llama.com/llama3_1/license/",
        aliases=(
            "llama-3.1-8b-instant",
            "llama-3.1-8b-instruct",
            "meta-llama/Llama-3.1-8B-Instruct",
            "meta-llama/Meta-Llama-3.1-8B-Instruct",
            "meta-llama/Meta-Llama-3.1-8B-Instruct-Reference",
        ),
        builds=(
            Build(
                format="gguf",
                repository="bartowski/Meta-Llama-3.1-8B-Instruct-GGUF",
                files=("Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf",),
                quantization="Q4_K_M",
                nbytes=4_920_739_232,
            ),
            Build(
                format="mlx",
                repository="mlx-community/Meta-Llama-3.1-8B-Instruct-4bit",
                files=(
                    "config.json",
                    "model.safetensors",
                    "model.safetensors.index.json",
                    "special_tokens_map.json",
                    "tokenizer.json",
                    "tokenizer_config.json",
                ),
                quantization="4bit",
                nbytes=4_530_000_000,
            ),
        ),
        temperature=0.6,
        top_p=0.9,
    ),
)


def find(name: str) -> Entry:
    """Return an entry by name or alias, in any case. Raises NotFound with near names."""
    lowered = name.lower()
    for entry in ENTRIES:
        if lowered in {alias.lower() for alias in (entry.name, *entry.aliases)}:
            return entry
    names = [alias for entry in ENTRIES for alias in (entry.name, *entry.aliases)]
    listed = ", ".join(entry.name for entry in ENTRIES)
    remedy = f"Known: {listed}. Or name a Hugging Face repository (org/name), or add a file: edgelora base add PATH."
    raise NotFound("base", name, names, remedy)


def find_shape(model: str | None) -> Entry | None:
    """Return the entry whose shape a model has, by the model's name or that of a mirror; None if it is not known."""
    wanted = checkpoint(model)
    return next((entry for entry in ENTRIES if wanted and wanted in _checkpoints(entry)), None)


def _checkpoints(entry: Entry) -> set[str | None]:
    return {checkpoint(name) for name in (entry.model, *entry.aliases, *entry.same_shape)}
