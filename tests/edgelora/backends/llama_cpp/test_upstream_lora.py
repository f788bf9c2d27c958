"""llama.cpp's own LoRA behind the same backend: the fallback, and an independent witness for the hook."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from edgelora.backends.base import Chunk
from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora.core.errors import AdapterCorrupt, BackendError
from tests.edgelora.backends.llama_cpp.conftest import EXACT, Installed, open_backend
from tests.support.steps import Lane, distance, generate, once
from tests.support.uses import applied

PROMPT = [5, 9, 200, 31, 7]


@pytest.fixture
def native(installed: Installed) -> Iterator[LlamaCppBackend]:
    backend = open_backend(installed, replace(EXACT, method="native"))
    for slot, path in enumerate(installed.paths):
        backend.attach(slot, backend.load(path))
    yield backend
    backend.close()


def test_it_says_that_it_cannot_mix(native: LlamaCppBackend) -> None:
    """The scheduler learns from the capabilities to group by adapter."""
    assert not native.capabilities.mixed_adapters


@pytest.mark.parametrize("slot", [None, 0, 1, 2, 3])
def test_it_agrees_with_the_hook(native: LlamaCppBackend, backend: LlamaCppBackend, slot: int | None) -> None:
    """Both ways give the same tokens, and logits that differ by rounding alone, in prefill and decode."""
    lanes = [Lane(0, slot, list(PROMPT)) for _ in range(2)]
    assert generate(native, [lanes[0]], steps=6) == generate(backend, [lanes[1]], steps=6)
    assert all(distance(*pair) < 5e-5 for pair in zip(lanes[0].history, lanes[1].history, strict=True))


def test_adapters_take_turns(native: LlamaCppBackend) -> None:
    """Switching back and forth, to the base too, leaves nothing behind."""
    first = [once(native, PROMPT, slot) for slot in (0, None, 1)]
    again = [once(native, PROMPT, slot) for slot in (0, None, 1)]
    assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))
    assert distance(first[0], first[1]) > 0.02


def test_a_mixed_step_is_refused(native: LlamaCppBackend) -> None:
    """Two adapters in one step would both get the wrong one: it is an error instead."""
    chunks = [Chunk(sequence=n, position=0, tokens=(1, 2), adapters=applied(n), logits=True) for n in range(2)]
    with pytest.raises(BackendError, match="same adapters to a whole step"):
        native.step(chunks)


def test_detach_and_attach(native: LlamaCppBackend, installed: Installed) -> None:
    """The adapter in use can be taken away, and its slot given to another."""
    other = once(native, PROMPT, 1)
    once(native, PROMPT, 0)
    native.detach(0)
    native.detach(0)
    native.attach(0, native.load(installed.paths[1]))
    assert np.array_equal(once(native, PROMPT, 0), other)


def test_a_bad_file_never_reaches_llama_cpp(native: LlamaCppBackend, installed: Installed) -> None:
    """The file is read and checked by us first: llama.cpp would end the process on some."""
    bad = installed.base.with_name("cut.gguf")
    bad.write_bytes(installed.paths[0].read_bytes()[:-100])
    with pytest.raises(AdapterCorrupt):
        native.load(bad)


def test_a_file_gone_before_attach_is_a_clear_error(native: LlamaCppBackend, installed: Installed) -> None:
    """llama.cpp reads the file a second time; where that fails, its reason is in the error."""
    path = installed.base.with_name("gone.gguf")
    path.write_bytes(installed.paths[0].read_bytes())
    loaded = native.load(path)
    path.unlink()
    native.detach(0)
    with pytest.raises(BackendError, match=r"cannot load the adapter .*gone\.gguf"):
        native.attach(0, loaded)
