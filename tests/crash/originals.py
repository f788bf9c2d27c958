"""Sound adapters of every format that is read, small, as bytes: what the corpus cuts and damages. Pure but for a
temporary folder."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from edgelora_converters import gguf, mapped, mlx
from edgelora_converters.lora import LoraAdapter, Target
from edgelora_models.modules import BY_GGUF
from tests.support.adapters import write_peft
from tests.support.lora import GQA, random_adapter

Kind = Literal["gguf", "mapped", "peft", "mlx"]
KINDS: tuple[Kind, ...] = ("gguf", "mapped", "peft", "mlx")
Files = Mapping[str, bytes]
"""What a folder holds, by name."""

SHAPE = GQA
MAIN: Mapping[Kind, str] = {"gguf": "a.gguf", "mapped": "a.lora", "peft": ".", "mlx": "."}
"""What of the folder a reader is given."""

_TARGETS = [Target(0, BY_GGUF["attn_q"]), Target(0, BY_GGUF["attn_k"]), Target(1, BY_GGUF["ffn_down"])]
_FACTS = {"base_fingerprint": "a" * 64, "converter_version": "0"}


@cache
def originals(kind: Kind) -> tuple[Files, ...]:
    """Every variant of a format: element types, patterns, an aLoRA."""
    with tempfile.TemporaryDirectory() as temporary:
        return tuple(_files(folder) for folder in _written(kind, Path(temporary)))


def _files(folder: Path) -> Files:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _written(kind: Kind, root: Path) -> list[Path]:
    if kind == "peft":
        half: dict[str, Any] = {
            "rank": 2,
            "targets": ["q_proj", "v_proj"],
            "dtype": "F16",
            "alpha_pattern": {"v_proj": 3},
        }
        return [
            write_peft(root / "f32", SHAPE, rank=2, targets=["q_proj", "down_proj"]),
            write_peft(root / "bf16", SHAPE, rank=3, targets=["k_proj"], dtype="BF16", use_rslora=True),
            write_peft(root / "f16", SHAPE, **half),
            write_peft(root / "alora", SHAPE, rank=2, targets=["q_proj"], alora_invocation_tokens=[3, 5, 8]),
        ]
    return [_adapter(kind, root / str(n), adapter) for n, adapter in enumerate(_adapters(kind))]


def _adapters(kind: Kind) -> list[LoraAdapter]:
    plain = random_adapter(SHAPE, targets=_TARGETS, ranks=(2,))
    several = random_adapter(SHAPE, targets=_TARGETS, ranks=(1, 3), scales=(0.5, -1.0), seed=1)
    return [plain, several] if kind == "mlx" else [plain, several, replace(plain, invocation=(3, 5, 8))]


def _adapter(kind: Kind, folder: Path, adapter: LoraAdapter) -> Path:
    if kind == "mlx":
        mlx.write(adapter, SHAPE, folder, provenance=_FACTS)
        return folder
    folder.mkdir()
    write = gguf.write if kind == "gguf" else mapped.write
    write(adapter, SHAPE, folder / MAIN[kind], provenance=_FACTS)
    return folder


def json_keys(files: Files) -> list[str]:
    """The keys of a folder's adapter_config.json; none where there is no such file."""
    return list(json.loads(files["adapter_config.json"])) if "adapter_config.json" in files else []
