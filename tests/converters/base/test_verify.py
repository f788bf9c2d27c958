"""The gate behind a converted base: what is not the source is seen, whatever is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgelora_converters.base.checkpoint import Checkpoint, open_checkpoint
from edgelora_converters.base.gguf import write_base_gguf
from edgelora_converters.base.plan import Quantization
from edgelora_converters.base.verify import verify_gguf
from edgelora_models.errors import BaseError
from edgelora_models.gguf_header import read_header
from tests.support.bases import tiny_weights
from tests.support.checkpoints import VOCAB, write_checkpoint
from tests.support.lora import GQA

SHAPE = replace(GQA, vocab=VOCAB)
Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Iterator[Checkpoint]:
    with open_checkpoint(write_checkpoint(tmp_path / "base", SHAPE)) as opened:
        yield opened


def other(tmp_path: Path, quantization: Quantization, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """A GGUF base with another q_proj in layer 0."""
    weights = tiny_weights(SHAPE, seed=0)
    weights[Q] = np.ascontiguousarray(change(weights[Q]))
    write_base_gguf(
        write_checkpoint(tmp_path / "other", SHAPE, weights=weights), tmp_path / "other.gguf", quantization=quantization
    )
    return tmp_path / "other.gguf"


@pytest.mark.parametrize("quantization", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
def test_what_is_right_passes(tmp_path: Path, checkpoint: Checkpoint, quantization: Quantization) -> None:
    """Rounding passes, and is measured; float32 is exact."""
    write_base_gguf(checkpoint.folder, tmp_path / "base.gguf", quantization=quantization)
    proof = verify_gguf(tmp_path / "base.gguf", checkpoint)
    assert (proof.overall == 0) is (quantization == "F32")
    assert proof.exact == (proof.tensors if quantization == "F32" else 5)


@pytest.mark.parametrize("quantization", ["F32", "Q8_0", "Q4_0"])
@pytest.mark.parametrize(
    "change",
    [
        lambda w: w[::-1],
        lambda w: w.reshape(4, 2, 8, 64).swapaxes(1, 2).reshape(64, 64),
        lambda w: np.roll(w, 1, axis=1),
        lambda w: w * 2,
        lambda w: np.zeros_like(w),
    ],
    ids=["rows-reversed", "order-of-a-head", "columns-shifted", "another-scale", "nothing"],
)
def test_mutations_are_seen(
    tmp_path: Path, checkpoint: Checkpoint, quantization: Quantization, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    """A tensor in another order or at another scale is no rounding, in any type."""
    with pytest.raises(BaseError, match="q_proj") as caught:
        verify_gguf(other(tmp_path, quantization, change), checkpoint)
    assert caught.value.code == "base_conversion_failed"


def test_one_bit_is_seen(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """Where nothing had to be rounded, the last bit of one weight counts."""
    write_base_gguf(checkpoint.folder, tmp_path / "base.gguf", quantization="F32")
    tensor = read_header(tmp_path / "base.gguf").tensors["blk.1.ffn_down.weight"]
    with (tmp_path / "base.gguf").open("r+b") as file:
        file.seek(tensor.offset + 400)
        byte = file.read(1)[0]
        file.seek(tensor.offset + 400)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(BaseError, match=r"layers\.1\.mlp\.down_proj"):
        verify_gguf(tmp_path / "base.gguf", checkpoint)


@pytest.mark.parametrize(
    "changes",
    [{"rms_norm_eps": 1e-6}, {"rope_theta": 5e5}, {"rope_scaling": None}, {"max_position_embeddings": 1024}],
)
def test_other_settings_are_seen(tmp_path: Path, checkpoint: Checkpoint, changes: dict[str, object]) -> None:
    """The same weights under another rope, epsilon or context are another base."""
    folder = write_checkpoint(tmp_path / "other", SHAPE, config=changes)
    write_base_gguf(folder, tmp_path / "other.gguf", quantization="F32")
    with pytest.raises(BaseError) as caught:
        verify_gguf(tmp_path / "other.gguf", checkpoint)
    assert caught.value.code == "base_conversion_failed"


def test_another_template_is_seen(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """The chat template is part of what a base is."""
    folder = write_checkpoint(tmp_path / "other", SHAPE)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    write_base_gguf(folder, tmp_path / "other.gguf", quantization="F32")
    with pytest.raises(BaseError, match="template"):
        verify_gguf(tmp_path / "other.gguf", checkpoint)


def test_progress(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """Bytes of the source compared so far, up to all."""
    told: list[tuple[int, int]] = []
    write_base_gguf(checkpoint.folder, tmp_path / "base.gguf", quantization="F32")
    verify_gguf(tmp_path / "base.gguf", checkpoint, progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told) and told[-1] == (4 * checkpoint.parameters, checkpoint.nbytes)
