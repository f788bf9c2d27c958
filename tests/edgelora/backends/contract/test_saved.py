"""KV copied out and put back, over every backend: what is restored is what was computed, and nothing else is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from edgelora.backends.base import Backend
from edgelora.core.errors import BackendError
from edgelora.core.kv import SavedKv
from tests.edgelora.backends.contract.conftest import Kind, attach_all
from tests.support.steps import Lane, advance, distance, generate

PROMPT = [(7 * n) % 250 for n in range(40)]


def computed(backend: Backend) -> Lane:
    """The prompt on an adapter, beside another sequence."""
    lane, other = Lane(0, 1, list(PROMPT)), Lane(5, 2, PROMPT[::-1])
    while lane.done < len(PROMPT):
        advance(backend, [(lane, lane.chunk(16)), (other, other.chunk(16))])
    return lane


@pytest.mark.parametrize("length", [1, 16, 25, 40])
def test_what_is_restored_goes_on_as_what_was_saved(kind: Kind, length: int) -> None:
    """In another backend and sequence, beside other adapters: the same tokens and, but for rounding, logits."""
    first, second = attach_all(kind.open(), kind), attach_all(kind.open(), kind)
    computed(first)
    saved = first.save(0, length)
    assert (saved.identity, saved.length) == (second.kv_identity, length)
    fresh = Lane(1, 1, list(PROMPT))
    (expected,) = generate(second, [fresh], steps=12, chunk=12)
    second.restore(3, saved)
    restored = Lane(3, 1, list(PROMPT), done=min(length, len(PROMPT) - 1))
    second.truncate(3, restored.done)
    others = [Lane(0, 0, PROMPT[5:20]), Lane(4, None, PROMPT[:9]), Lane(2, 1, PROMPT[3:])]
    assert generate(second, [*others, restored], steps=12, chunk=12)[-1] == expected
    assert all(distance(a, b) < 1e-4 for a, b in zip(restored.history[-12:], fresh.history[-12:], strict=True))
    first.close()
    second.close()


def test_saving_changes_nothing(backend: Backend) -> None:
    """The saved sequence goes on, and so does each that was given what it held."""
    lane = computed(backend)
    for length in (8, 40) * 20:
        assert backend.save(0, length).length == length
    saved = backend.save(0, 40)
    for sequence in (1, 2, 3):
        backend.restore(sequence, saved)
    lanes = [Lane(n, 1, [*PROMPT, 5], done=40) for n in (1, 2, 3)]
    lane.tokens.append(5)
    answers = generate(backend, [lane, *lanes], steps=6)
    assert answers == [answers[0]] * 4


def damaged(saved: SavedKv, change: Callable[[bytes], bytes]) -> SavedKv:
    return replace(saved, data=memoryview(change(bytes(saved.data))))


def test_what_cannot_be_right_is_refused(backend: Backend, kind: Kind) -> None:
    """Other identities or lengths, a sequence in use, one that is not there: an error, and nothing is changed."""
    computed(backend)
    saved = backend.save(0, 24)
    wrong = [replace(saved, identity=saved.identity + "x"), replace(saved, length=0), replace(saved, length=97)]
    if kind.computes:  # The fake's bytes are a list of tokens; those of a model have a size.
        wrong += [replace(saved, length=23)]
        wrong += [damaged(saved, change) for change in (lambda d: d[:-1], lambda d: d + b"\0", lambda d: b"")]
    for one in wrong:
        with pytest.raises(BackendError):
            backend.restore(1, one)
        with pytest.raises(BackendError):
            backend.truncate(1, 1)
        backend.clear(1)
    for sequence in (0, -1, 6):
        with pytest.raises(BackendError):
            backend.restore(sequence, saved)
    for length in (0, 41):
        with pytest.raises(BackendError):
            backend.save(0, length)
    backend.restore(1, saved)
    assert backend.save(1, 24).length == 24


def test_no_room_is_an_error(kind: Kind) -> None:
    """Where the cells are taken nothing is restored, and it works once there is room."""
    backend = kind.open(kv_cells=256, context_length=256, max_step_tokens=256)
    prompt = Lane(0, None, [n % 250 for n in range(240)])
    advance(backend, [(prompt, prompt.chunk(240))])
    saved = backend.save(0, 32)
    with pytest.raises(BackendError):
        backend.restore(1, saved)
    backend.clear(1)
    backend.truncate(0, 200)
    backend.restore(1, saved)
    backend.close()


def test_the_identity_is_one_line_and_stays(kind: Kind) -> None:
    """The same for other sizes: a restart with other settings finds what was kept."""
    one, other = kind.open(), kind.open(max_sequences=3, kv_cells=768, context_length=64)
    assert one.kv_identity == other.kv_identity and "\n" not in one.kv_identity
    one.close()
    other.close()
