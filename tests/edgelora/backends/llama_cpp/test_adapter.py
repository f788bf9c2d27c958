"""An adapter in memory: mapped where it lies, alive as long as it is used, and never trusted."""

from __future__ import annotations

import gc
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest

from edgelora.backends.llama_cpp.adapter import LoadedLora
from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora.core.errors import AdapterError
from tests.edgelora.backends.llama_cpp.conftest import Installed
from tests.support.steps import distance, once

PROMPTS = ([5, 9, 200, 31, 7], [65, 66, 67], [1, 2, 3, 4, 5, 6, 7, 8, 9], [250, 249, 248, 100])


def test_a_mapping_lives_as_long_as_its_slot(backend: LlamaCppBackend, installed: Installed, tmp_path: Path) -> None:
    """An attached adapter runs on whatever becomes of its file, and its memory goes when it is detached."""
    path = Path(shutil.copy(installed.mapped[1], tmp_path / "gone.lora"))
    loaded = backend.load(path)
    assert isinstance(loaded, LoadedLora)
    mapping = weakref.ref(next(iter(loaded.factors.values())).a)
    backend.detach(0)
    backend.attach(0, loaded)
    del loaded
    path.unlink()
    gc.collect()
    assert mapping() is not None
    assert np.array_equal(once(backend, PROMPTS[0], 0), once(backend, PROMPTS[0], 1))
    backend.detach(0)
    gc.collect()
    assert mapping() is None


def test_a_mapped_file_is_not_copied(native_backend: LlamaCppBackend, installed: Installed) -> None:
    """The native kernel streams the mapping itself; its bytes are those of the values as they are stored."""
    loaded = native_backend.load(installed.mapped[0])
    assert isinstance(loaded, LoadedLora)
    assert loaded.nbytes == 4 * installed.adapters[0].parameters
    assert not any(
        array.flags.owndata or array.flags.writeable for f in loaded.factors.values() for array in (f.a, f.b)
    )


def test_mapped_equals_gguf(backend: LlamaCppBackend, installed: Installed) -> None:
    """The two files of one adapter differ by where the scale is rounded, and by nothing else."""
    for slot, path in enumerate(installed.paths):
        mapped = once(backend, PROMPTS[slot], slot)
        backend.detach(slot)
        backend.attach(slot, backend.load(path))
        assert distance(mapped, once(backend, PROMPTS[slot], slot)) < 2e-6


def test_a_damaged_mapped_file_is_an_adapter_error(
    backend: LlamaCppBackend, installed: Installed, tmp_path: Path
) -> None:
    """Cut, or no such file at all: an error of the tree, and the backend works on."""
    cut = tmp_path / "cut.lora"
    cut.write_bytes(installed.mapped[0].read_bytes()[:-100])
    for path in (cut, tmp_path / "none.lora"):
        with pytest.raises(AdapterError):
            backend.load(path)
    assert once(backend, PROMPTS[0], 0).size
