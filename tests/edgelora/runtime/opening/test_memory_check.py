"""Whether a base fits, by the numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgelora.core.config import Settings, read_settings
from edgelora.core.errors import BaseError, UsageError
from edgelora.core.machine import Memory
from edgelora.runtime.opening.memory_check import MemoryNeed, check_fits
from edgelora.runtime.opening.open import open_backend
from edgelora.runtime.opening.plan import plan_setup
from edgelora.store.bases.record import BaseRecord
from edgelora.store.bases.registry import Bases
from tests.support.bases import write_tiny_gguf
from tests.support.lora import GQA
from tests.support.mlx import write_tiny_mlx

GB = 10**9


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return read_settings({"EDGELORA_HOME": str(tmp_path), "EDGELORA_CONTEXT": "64"})


@pytest.fixture
def gguf(settings: Settings, tmp_path: Path) -> BaseRecord:
    return Bases(settings.directories).add(write_tiny_gguf(tmp_path / "tiny.gguf", GQA, seed=0))


@pytest.fixture
def mlx(settings: Settings, tmp_path: Path) -> BaseRecord:
    return Bases(settings.directories).add(write_tiny_mlx(tmp_path / "tiny-mlx", GQA, seed=0))


@pytest.mark.parametrize(
    ("need", "available", "fits"),
    [
        (MemoryNeed(mapped=8 * GB, held=0, kv=GB), 2 * GB, True),
        (MemoryNeed(mapped=8 * GB, held=0, kv=3 * GB), 2 * GB, False),
        (MemoryNeed(mapped=16 * GB, held=0, kv=GB), 15 * GB, False),
        (MemoryNeed(mapped=0, held=8 * GB, kv=GB), 9 * GB, True),
        (MemoryNeed(mapped=0, held=8 * GB, kv=GB), 8 * GB, False),
        (MemoryNeed(mapped=8 * GB, held=8 * GB, kv=GB), 15 * GB, False),
    ],
)
def test_what_fits(need: MemoryNeed, available: int, fits: bool) -> None:
    """All of it into the machine; what cannot be dropped into what is free. The refusal has the numbers."""
    memory = Memory(total=16 * GB, available=available)
    if fits:
        check_fits("huge", need, memory)
        return
    with pytest.raises(BaseError) as caught:
        check_fits("huge", need, memory)
    assert caught.value.code == "base_too_large"
    assert "huge takes" in caught.value.what and "16.0 GB" in caught.value.what
    assert "--context" in caught.value.remedy


def test_metal_gives_only_so_much() -> None:
    """What MLX holds must fit into Metal's working set; what is mapped does not count there."""
    memory, need = Memory(16 * GB, 16 * GB), MemoryNeed(mapped=0, held=10 * GB, kv=GB)
    check_fits("huge", need, memory, working_set=11 * GB)
    with pytest.raises(BaseError, match=r"Metal gives a process 10\.7 GB"):
        check_fits("huge", need, memory, working_set=10_700_000_000)


def test_what_each_backend_holds(gguf: BaseRecord, mlx: BaseRecord, settings: Settings) -> None:
    """llama.cpp maps the file, and holds it once more where it is repacked; MLX holds its weights; both keep KV."""
    kv = 2 * 64 * 2 * GQA.layers * GQA.kv_width
    mapped = plan_setup(gguf, replace(settings, weights="mapped"))
    assert MemoryNeed.of(gguf, mapped) == MemoryNeed(gguf.nbytes, 0, 2 * kv)
    repacked = plan_setup(gguf, replace(settings, weights="repacked"))
    assert MemoryNeed.of(gguf, repacked) == MemoryNeed(gguf.nbytes, gguf.nbytes, 2 * kv)
    held = plan_setup(mlx, settings)
    assert MemoryNeed.of(mlx, held) == MemoryNeed(0, mlx.nbytes, 4 * kv)
    assert str(held) == "MLX; KV in the base's type, 512 bytes a token, 65.5 kB for 128 tokens"


def test_mlx_has_no_quantized_kv(mlx: BaseRecord, settings: Settings) -> None:
    """Asked for it, it says so: nothing is ignored in silence."""
    with pytest.raises(UsageError, match="q8_0 is llama"):
        plan_setup(mlx, replace(settings, kv_type="q8_0"))


def test_it_is_refused_before_it_is_loaded(
    gguf: BaseRecord, mlx: BaseRecord, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By both backends, nothing of the file read; unless the check is off."""
    monkeypatch.setattr("edgelora.runtime.opening.open.memory", lambda: Memory(total=1000, available=1000))
    for record in (gguf, mlx):
        with pytest.raises(BaseError) as caught:
            open_backend(record, plan_setup(record, settings), settings, pytest.fail)
        assert caught.value.code == "base_too_large" and record.name in caught.value.what
    backend = open_backend(gguf, plan_setup(gguf, settings), replace(settings, memory_check="off"), None)
    backend.close()
