"""The base is loaded once: no adapter, attached, switched or dropped, has a weight of it read or copied again."""

from __future__ import annotations

import gc
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mlx")

import mlx.core as mx

from edgelora.backends.mlx.open import open_mlx
from edgelora.core.events import Finished
from edgelora.core.request import AdapterRef, AdapterUse, Request
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.engine import Engine
from edgelora_converters.lora.adapter import Target
from edgelora_converters.mlx import writer as mlx_writer
from edgelora_models.modules import EMBEDDING, LINEAR_MODULES
from tests.edgelora.backends.mlx.conftest import EXACT, opened
from tests.support.lora import GQA, dora_adapter, random_adapter
from tests.support.mlx import write_tiny_mlx
from tests.support.steps import distance, once

pytestmark = pytest.mark.mlx


@pytest.fixture
def adapters(tmp_path: Path) -> list[Path]:
    """Three plain ones, and one with DoRA."""
    every = [*(random_adapter(GQA, seed=n, ranks=(2 + n, 9)) for n in range(3)), dora_adapter(GQA, seed=4)]
    for number, adapter in enumerate(every):
        mlx_writer.write(adapter, GQA, tmp_path / f"{number}", provenance={})
    return [tmp_path / f"{number}" for number in range(len(every))]


def test_no_base_weight_is_read_twice(tmp_path: Path, adapters: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """One read of the file, which is then gone; whatever is switched, the arrays are those of the start."""
    folder = write_tiny_mlx(tmp_path / "base", GQA, seed=7)
    reads: list[str] = []
    load = mx.load
    monkeypatch.setattr(mx, "load", lambda path, *more, **other: (reads.append(path), load(path, *more, **other))[1])
    with opened(folder) as backend:
        assert reads == [str(folder / "model.safetensors")]
        shutil.rmtree(folder)
        base = backend._opened().base
        targets = [Target(n, m) for n in range(GQA.layers) for m in LINEAR_MODULES] + [Target(None, EMBEDDING)]
        before = [id(array) for target in targets for array in base.matrix(target).arrays]
        first: dict[int, Any] = {}
        for _ in range(3):
            for slot, path in enumerate(adapters):
                backend.attach(slot, backend.load(path))
                logits = once(backend, [1, 2, 3], slot)
                assert distance(logits, first.setdefault(slot, logits)) == 0
            for slot in range(len(adapters)):
                backend.detach(slot)
        assert [id(array) for target in targets for array in base.matrix(target).arrays] == before
        assert len(reads) == 1


def test_what_is_dropped_is_free(tiny: Path, adapters: list[Path]) -> None:
    """Attached, used, detached, sequences cleared: after any number of rounds mlx holds what it held after one."""
    gc.collect()  # What other tests have left is none of this one's.
    before = mx.get_active_memory()
    with opened(tiny) as backend:

        def round_of_use() -> int:
            for slot, path in enumerate(adapters):
                backend.attach(slot, backend.load(path))
                once(backend, list(range(40)), slot)
            for slot in range(len(adapters)):
                backend.detach(slot)
            return int(mx.get_active_memory() - before)

        held = round_of_use()
        assert {round_of_use() for _ in range(4)} == {held}
        assert held < 1.2 * GQA.layers * sum(m.in_features(GQA) * m.out_features(GQA) * 4 for m in LINEAR_MODULES) + (
            2 * 4 * GQA.vocab * GQA.hidden
        )


def test_an_adapter_takes_what_it_says(tiny: Path, adapters: list[Path]) -> None:
    """`nbytes` is float32 factors at each module's own rank, without the folder's padding."""
    with opened(tiny) as backend:
        loaded = backend.load(adapters[2])
    assert loaded.nbytes == 4 * random_adapter(GQA, seed=2, ranks=(4, 9)).parameters


def test_opened_on_one_thread_loaded_on_another_and_run_on_a_third(tiny: Path, adapters: list[Path]) -> None:
    """mlx's streams belong to threads: nothing half-computed crosses from one to another."""
    opened_there: list[Any] = []
    thread = threading.Thread(target=lambda: opened_there.append(open_mlx(tiny, shape=GQA, options=EXACT)))
    thread.start()
    thread.join()
    engine = Engine(opened_there[0], adapter_budget_bytes=1 << 22, max_queue=8)
    refs = [AdapterRef(path.name, path.name, path, 1000) for path in adapters]
    streams = [
        engine.submit(Request(ref.name, (1, 2, 3, 4), (AdapterUse(ref),), SamplingParams(max_tokens=8))) for ref in refs
    ]
    ends = [list(stream)[-1] for stream in streams]
    engine.close()
    assert all(isinstance(end, Finished) for end in ends), ends
