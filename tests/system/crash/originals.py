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

import numpy as np

from edgelora_converters.gguf import writer as gguf_writer
from edgelora_converters.lora.adapter import LoraAdapter, Target, TokenRows
from edgelora_converters.mapped import writer as mapped_writer
from edgelora_converters.mlx import writer as mlx_writer
from edgelora_converters.peft import writer as peft_writer
from edgelora_models.modules import BY_GGUF, EMBEDDING, HEAD
from tests.support.adapters import write_peft
from tests.support.lora import GQA, dora_adapter, full_adapter, random_adapter

Kind = Literal["gguf", "mapped", "peft", "mlx"]
KINDS: tuple[Kind, ...] = ("gguf", "mapped", "peft", "mlx")
Files = Mapping[str, bytes]
"""What a folder holds, by name."""

SHAPE = GQA
MAIN: Mapping[Kind, str] = {"gguf": "a.gguf", "mapped": "a.lora", "peft": ".", "mlx": "."}
"""What of the folder a reader is given."""

_TARGETS = [Target(0, BY_GGUF["attn_q"]), Target(0, BY_GGUF["attn_k"]), Target(1, BY_GGUF["ffn_down"])]
_ENDS = [Target(None, EMBEDDING), Target(None, HEAD)]
_DORA = dora_adapter(SHAPE, targets=_TARGETS[:2], ranks=(2,))
_TOKENS = replace(
    random_adapter(SHAPE, targets=_TARGETS[:1], ranks=(2,)),
    token_rows={_ENDS[0]: TokenRows((3, 8), np.ones((2, SHAPE.hidden), np.float32))},
)
_FACTS = {"base_fingerprint": "a" * 64, "converter_version": "0"}


@cache
def originals(kind: Kind) -> tuple[Files, ...]:
    """Every variant of a format: element types, patterns, an aLoRA, DoRA, biases, embedding and head, tokens."""
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
            *(_adapter(kind, root / name, adapter) for name, adapter in (("dora", _DORA), ("tokens", _TOKENS))),
        ]
    return [_adapter(kind, root / str(n), adapter) for n, adapter in enumerate(_adapters(kind))]


def _adapters(kind: Kind) -> list[LoraAdapter]:
    plain = random_adapter(SHAPE, targets=_TARGETS, ranks=(2,))
    several = random_adapter(SHAPE, targets=_TARGETS, ranks=(1, 3), scales=(0.5, -1.0), seed=1)
    ends = random_adapter(SHAPE, targets=_ENDS, ranks=(1, 8), seed=2)
    if kind == "mlx":
        return [plain, several, ends, _DORA]
    return [plain, several, replace(plain, invocation=(3, 5, 8)), ends if kind == "gguf" else _every_part()]


def _every_part() -> LoraAdapter:
    """Row scales, biases, the embedding and the head, of a few modules. What stands last fills its place: a cut in the
    padding behind it would lose nothing."""
    whole = full_adapter(SHAPE)
    targets = {*_TARGETS, *_ENDS}
    pairs = {target: pair for target, pair in whole.pairs.items() if target in targets}
    pairs[_ENDS[1]] = replace(pairs[_ENDS[1]], magnitude=None)
    return replace(
        whole, pairs=pairs, row_scales={t: g for t, g in whole.row_scales.items() if t in targets - {_ENDS[1]}}
    )


def _adapter(kind: Kind, folder: Path, adapter: LoraAdapter) -> Path:
    if kind in ("mlx", "peft"):
        (mlx_writer.write if kind == "mlx" else peft_writer.write)(adapter, SHAPE, folder, provenance=_FACTS)
        return folder
    folder.mkdir()
    write = gguf_writer.write if kind == "gguf" else mapped_writer.write
    write(adapter, SHAPE, folder / MAIN[kind], provenance=_FACTS)
    return folder


def json_keys(files: Files) -> list[str]:
    """The keys of a folder's adapter_config.json; none where there is no such file."""
    return list(json.loads(files["adapter_config.json"])) if "adapter_config.json" in files else []
