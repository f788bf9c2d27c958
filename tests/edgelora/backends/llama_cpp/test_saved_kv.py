"""Saved KV: what is restored is what was computed, and what is not ours is refused before llama.cpp sees it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import llama_cpp
import pytest

from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora.backends.llama_cpp.kv_identity import build_digest
from edgelora.backends.llama_cpp.options import BackendOptions
from edgelora.core.config import KvType
from edgelora.core.errors import BackendError
from edgelora.core.kv import SavedKv
from tests.edgelora.backends.llama_cpp.conftest import EXACT, Installed, open_backend
from tests.support.steps import Lane, advance, distance, generate

PROMPT = [(7 * n) % 250 for n in range(40)]


def computed(backend: LlamaCppBackend, *, sequence: int = 0, slot: int | None = 1) -> Lane:
    """The prompt on an adapter, beside another sequence, in chunks that interleave their cells."""
    lane, other = Lane(sequence, slot, list(PROMPT)), Lane(5, 2, PROMPT[::-1])
    while lane.done < len(PROMPT):
        advance(backend, [(lane, lane.chunk(16)), (other, other.chunk(16))])
    return lane


@pytest.mark.parametrize("length", [1, 16, 25, 40])
@pytest.mark.parametrize("kv_type", ["f16", "f32"])
def test_what_is_restored_goes_on_as_what_was_saved(installed: Installed, kv_type: KvType, length: int) -> None:
    """In another backend and sequence, beside other adapters: the same tokens and, but for rounding, logits."""
    options = replace(EXACT, kv_type=kv_type)
    first, second = open_backend(installed, options), open_backend(installed, options)
    for backend in (first, second):
        for slot, path in enumerate(installed.paths):
            backend.attach(slot, backend.load(path))
    computed(first)
    saved = first.save(0, length)
    fresh = Lane(1, 1, list(PROMPT))
    (expected,) = generate(second, [fresh], steps=12, chunk=12)
    second.restore(3, saved)
    restored = Lane(3, 1, list(PROMPT), done=min(length, len(PROMPT) - 1))
    second.truncate(3, restored.done)
    others = [Lane(0, 0, PROMPT[5:20]), Lane(4, None, PROMPT[:9]), Lane(2, 1, PROMPT[3:])]
    assert generate(second, [*others, restored], steps=12, chunk=12)[-1] == expected
    tolerance = 1e-4 if kv_type == "f32" else 5e-2
    assert all(distance(a, b) < tolerance for a, b in zip(restored.history[-12:], fresh.history[-12:], strict=True))
    first.close()
    second.close()


def test_saving_changes_nothing(backend: LlamaCppBackend) -> None:
    """The saved sequence goes on, whole, as does its neighbour; no cell is lost to the copying."""
    lane = computed(backend)
    for length in (8, 40) * 40:
        assert backend.save(0, length).length == length
    saved = backend.save(0, 40)
    for sequence in (1, 2, 3, 4):
        backend.restore(sequence, saved)
    cells = 16 + 12 * 40  # before the numbers: which cells of which sequence
    assert len({bytes(backend.save(n, 40).data[cells:]) for n in (0, 1, 2, 3, 4)}) == 1
    restored, lane.tokens = Lane(1, 1, [*lane.tokens, 5], done=40), [*lane.tokens, 5]
    (expected,), (actual,) = generate(backend, [restored], steps=6), generate(backend, [lane], steps=6)
    assert actual == expected


def damaged(saved: SavedKv, change: Callable[[bytes], bytes]) -> SavedKv:
    return replace(saved, data=memoryview(change(bytes(saved.data))))


def test_what_cannot_be_right_is_refused(backend: LlamaCppBackend) -> None:
    """Other identities or lengths, cut bytes, a sequence in use: an error, and the sequence is empty or as it was."""
    computed(backend)
    saved = backend.save(0, 24)
    for wrong, code in (
        (replace(saved, identity=saved.identity + "x"), "foreign_kv"),
        (replace(saved, length=0), "bad_length"),
        (replace(saved, length=97), "bad_length"),
        (replace(saved, length=23), "kv_not_restored"),
        (damaged(saved, lambda data: data[:-1]), "kv_not_restored"),
        (damaged(saved, lambda data: data[:100]), "kv_not_restored"),
        (damaged(saved, lambda data: data + b"\0"), "kv_not_restored"),
        (damaged(saved, lambda data: b""), "kv_not_restored"),
    ):
        with pytest.raises(BackendError) as error:
            backend.restore(1, wrong)
        assert error.value.code == code
        assert backend._ledger.length(1) == 0
    with pytest.raises(BackendError, match="holds tokens already"):
        backend.restore(0, saved)
    for sequence in (-1, 6):
        with pytest.raises(BackendError, match="not one of"):
            backend.restore(sequence, saved)
    for length in (0, 41):
        with pytest.raises(BackendError, match="to keep"):
            backend.save(0, length)
    backend.restore(1, saved)
    assert backend.save(1, 24).length == 24


def test_no_room_is_an_error(installed: Installed) -> None:
    """Where the cells are taken nothing is restored, and it works once there is room."""
    options = replace(EXACT, kv_cells=256, context_length=256, max_step_tokens=256)
    backend = open_backend(installed, options)
    prompt = Lane(0, None, [n % 250 for n in range(240)])
    advance(backend, [(prompt, prompt.chunk(240))])
    saved = backend.save(0, 32)
    with pytest.raises(BackendError) as error:
        backend.restore(1, saved)
    assert error.value.code == "kv_not_restored"
    backend.truncate(0, 200)
    backend.restore(1, saved)
    backend.close()


def test_builds_are_told_apart(tmp_path: Path) -> None:
    """The same version compiled anew is another build: its files have other times, sizes or names."""
    for name in ("libllama.so", "libggml-cpu.so"):
        (tmp_path / name).write_bytes(b"code")
    seen = {build_digest(tmp_path), build_digest(tmp_path)}
    assert len(seen) == 1
    os.utime(tmp_path / "libggml-cpu.so", (1, 1))
    seen.add(build_digest(tmp_path))
    (tmp_path / "libllama.so").rename(tmp_path / "libllama.so.1")
    seen.add(build_digest(tmp_path))
    assert len(seen) == 3


def test_the_identity_tells_apart_what_computes(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for other sizes; another for another KV type, way of adding adapters or library version."""

    def identity(options: BackendOptions = EXACT) -> str:
        backend = open_backend(installed, options)
        backend.close()
        return backend.kv_identity

    here = identity()
    assert here == identity(replace(EXACT, threads=2, max_sequences=3, kv_cells=768, context_length=64))
    others = {identity(replace(EXACT, kv_type="f16")), identity(replace(EXACT, kernel="numpy", method="native"))}
    monkeypatch.setattr(llama_cpp, "__version__", "0.0.1")
    others.add(identity())
    monkeypatch.undo()
    assert len(others | {here}) == 4 and "\n" not in here
