"""What the engine relies on, over every backend: steps, cuts, copies, slots, limits, and that nothing leaks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgelora.backends.base import Applied, Backend, Chunk
from edgelora.backends.registry import SPECS, spec
from edgelora.core.errors import BackendError
from tests.edgelora.backends.contract.conftest import Kind, attach_all
from tests.support.lora import GQA
from tests.support.steps import Lane, advance, distance, generate, once
from tests.support.uses import applied

NOISE = 5e-6
PROMPTS = ([5, 9, 200, 31, 7], [65, 66, 67], [1, 2, 3, 4, 5, 6, 7, 8, 9], [250, 249, 248, 100], [42, 43])


def chunk(sequence: int, position: int, tokens: tuple[int, ...], slot: int | None = None) -> Chunk:
    return Chunk(sequence=sequence, position=position, tokens=tokens, adapters=applied(slot), logits=True)


def test_capabilities_are_what_was_asked_for(backend: Backend, kind: Kind) -> None:
    """The scheduler's limits are the backend's."""
    able = backend.capabilities
    assert backend.name == kind.name and able.mixed_adapters
    assert (able.max_slots, able.max_sequences, able.max_step_tokens) == (4, 6, 64)
    assert (able.context_length, able.kv_cells, able.max_outputs) == (96, 512, 7)


def test_the_spec_names_the_adapter_format_that_is_loaded(backend: Backend, kind: Kind) -> None:
    """Known before a base is opened, and true of the open backend; the fake has no spec."""
    if kind.name in SPECS:
        assert spec(kind.name).adapter_format == backend.capabilities.adapter_format
    assert all(count >= 0 for count in backend.allocated_bytes())


@pytest.mark.parametrize("size", [1, 3, 64])
def test_a_mixed_batch_equals_each_alone(backend: Backend, size: int) -> None:
    """Five sequences on four adapters and the base, in whatever pieces: the tokens, and the logits, of each alone."""
    lanes = [Lane(n, slot, list(PROMPTS[n])) for n, slot in enumerate((2, None, 0, 3, 1))]
    alone = [Lane(5, lane.slot, list(lane.tokens)) for lane in lanes]
    mixed = generate(backend, lanes, steps=6, chunk=size)
    assert mixed == [generate(backend, [lane], steps=6)[0] for lane in alone]
    assert all(distance(one.history[-1], two.history[-1]) < NOISE for one, two in zip(lanes, alone, strict=True))


def test_prompts_beside_decoding_sequences(backend: Backend) -> None:
    """Pieces of prompts in the same steps as single tokens of others: every one as if it had been alone."""
    early, late = Lane(0, 0, list(PROMPTS[0])), Lane(1, 1, list(PROMPTS[2]) * 2)
    expected = [generate(backend, [Lane(5, lane.slot, list(lane.tokens))], steps=8)[0] for lane in (early, late)]
    begun = len(early.tokens)
    while len(late.tokens) < 2 * len(PROMPTS[2]) + 8:
        live = [lane for lane in (late, early) if len(lane.tokens) < begun + 8 or lane is late]
        advance(backend, [(lane, lane.chunk(4)) for lane in live])
        for lane in live:
            if lane.done == len(lane.tokens) and lane.logits is not None:
                lane.tokens.append(int(lane.logits.argmax()))
    assert early.tokens[begun : begun + 8] == expected[0]
    assert late.tokens[2 * len(PROMPTS[2]) :] == expected[1]


KINDS_OF_USE = {
    "composed": (Applied(0, 0.7), Applied(1, 0.3)),
    "negative": (Applied(1, 0.25), Applied(3, -1.5), Applied(0, 0.5)),
    "gated": (Applied(0, 1.0, start=3),),
    "gated and composed": (Applied(2, 0.5), Applied(0, 0.75, start=4), Applied(3, 1.0, start=6)),
    "not begun": (Applied(1, 1.0, start=90),),
}


@pytest.mark.parametrize("size", [1, 2, 64])
def test_composed_and_gated_lanes_side_by_side(backend: Backend, size: int) -> None:
    """Several adapters with weights, and ones that begin within a prompt: in any pieces what each says alone."""
    lanes = [Lane(n, None, list(PROMPTS[2]), uses) for n, uses in enumerate(KINDS_OF_USE.values())]
    alone = [generate(backend, [Lane(5, None, list(PROMPTS[2]), lane.more)], steps=6)[0] for lane in lanes]
    assert generate(backend, lanes, steps=6, chunk=size) == alone


def test_what_acts_matters(backend: Backend) -> None:
    """Adapter, weight and start each change the logits."""
    seen: list[np.ndarray] = []
    for uses in [(), (Applied(0),), (Applied(1),), (Applied(0, 0.5),), (Applied(0, 1.0, start=2),)]:
        lane = Lane(0, None, list(PROMPTS[2]), uses)
        generate(backend, [lane], steps=4)
        seen.append(np.concatenate(lane.history))
    for n, one in enumerate(seen):
        assert all(distance(one, other) > 0.01 for other in seen[:n])


def test_logits_after_several_tokens(backend: Backend) -> None:
    """Row by row what each of the last tokens gets alone, beside a chunk that wants none."""
    prompt = PROMPTS[2]
    lane, other = Lane(0, 1, list(prompt)), Lane(1, 0, list(PROMPTS[0]))
    advance(backend, [(other, other.chunk(64, logits=0)), (lane, lane.chunk(64, logits=4))])
    assert other.logits is None and len(lane.history) == 4
    for found, end in zip(lane.history, range(len(prompt) - 3, len(prompt) + 1), strict=True):
        assert distance(found, once(backend, prompt[:end], 1, sequence=5)) < NOISE


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [chunk(0, 0, (1,) * 65)],
        [chunk(0, 0, (1,)), chunk(0, 1, (1,))],
        [chunk(6, 0, (1,))],
        [chunk(-1, 0, (1,))],
        [chunk(0, 3, (1,))],
        [chunk(0, 0, (1,)), chunk(1, 0, ())],
        [chunk(0, 0, (100_000,))],
        [chunk(0, 0, (-1,))],
        [chunk(0, 0, (1,), 9)],
        [replace(chunk(0, 0, (1,)), adapters=(Applied(0), Applied(0, 0.5)))],
        [replace(chunk(0, 0, (1, 2)), logits=3)],
        [replace(chunk(n, 0, (1,) * 4), logits=4) for n in range(2)],
    ],
)
def test_steps_that_cannot_be_are_refused(backend: Backend, chunks: list[Chunk]) -> None:
    """Nothing is changed by the refusal."""
    with pytest.raises(BackendError):
        backend.step(chunks)
    assert backend.step([chunk(0, 0, (1,))])[0] is not None


def test_a_sequence_ends_at_the_context(backend: Backend) -> None:
    """The last position of the context can be computed, the next cannot."""
    lane = Lane(0, None, [1] * 97)
    advance(backend, [(lane, lane.chunk(60))])
    advance(backend, [(lane, lane.chunk(36))])
    with pytest.raises(BackendError):
        advance(backend, [(lane, lane.chunk(1))])


def test_a_full_kv_is_an_error_and_recovers(kind: Kind) -> None:
    """Where the cells run out the step fails; cleared sequences make room again."""
    backend = kind.open(context_length=128, kv_cells=256)
    lanes = [Lane(n, None, [3] * 120) for n in range(3)]
    for lane in lanes[:2]:
        advance(backend, [(lane, lane.chunk(60))])
        advance(backend, [(lane, lane.chunk(60))])
    with pytest.raises(BackendError):
        advance(backend, [(lanes[2], lanes[2].chunk(60))])
    for sequence in (0, 2):
        backend.clear(sequence)
    advance(backend, [(lanes[2], lanes[2].chunk(60))])
    assert lanes[2].logits is not None
    backend.close()


def test_clear_forgets_one_sequence_alone(backend: Backend) -> None:
    """A cleared sequence starts anew; its neighbours go on as if nothing happened."""
    alone = once(backend, [4, 5, 6, 7], 0, sequence=3)
    kept, gone = Lane(0, 0, [4, 5, 6, 7]), Lane(1, 1, [9, 9])
    advance(backend, [(kept, kept.chunk(3)), (gone, gone.chunk(2))])
    backend.clear(1)
    backend.clear(1)
    advance(backend, [(kept, kept.chunk(1)), (fresh := Lane(1, 0, [4, 5, 6, 7]), fresh.chunk(4))])
    assert kept.logits is not None and fresh.logits is not None
    assert distance(kept.logits, alone) < NOISE and distance(fresh.logits, alone) < NOISE


@pytest.mark.parametrize("length", [1, 9, 19, 20])
def test_a_cut_sequence_goes_on_as_a_fresh_one(backend: Backend, length: int) -> None:
    """Cut back to a shared prefix and gone on with: the tokens of a run that never held anything else."""
    shared, rest = [3 + n for n in range(length)], [7, 8, 9]
    (expected,) = generate(backend, [Lane(2, 0, shared + rest)], steps=8)
    neighbour = Lane(1, 1, [5, 6, 7])
    lane = Lane(0, 0, shared + [40 + n for n in range(20 - length)])
    advance(backend, [(lane, lane.chunk(20)), (neighbour, neighbour.chunk(2))])
    backend.truncate(0, length)
    reused = Lane(0, 0, shared + rest, done=length)
    assert generate(backend, [reused], steps=8) == [expected]
    alone = once(backend, [5, 6, 7], 1, sequence=3)
    advance(backend, [(neighbour, neighbour.chunk(1))])
    assert neighbour.logits is not None and distance(neighbour.logits, alone) < NOISE


def test_copies_go_on_each_for_itself(backend: Backend) -> None:
    """Source and copies side by side, and a copy after its source is gone: each its own tokens."""
    shared, prompts = [3 + n for n in range(15)], ([7, 8, 9], [17, 18], [27, 28])
    expected = [generate(backend, [Lane(5, 0, shared + rest)], steps=8)[0] for rest in prompts]
    backend.step([chunk(0, 0, (*shared, 30, 31), 0)])
    for target in (1, 2):
        backend.copy(0, target, 15)
    backend.truncate(0, 15)
    lanes = [Lane(n, 0, shared + rest, done=15) for n, rest in enumerate(prompts)]
    assert generate(backend, lanes[:2], steps=8) == expected[:2]
    assert generate(backend, lanes[2:], steps=8) == expected[2:]


def test_kv_outlives_the_slot_of_its_adapter(backend: Backend, kind: Kind) -> None:
    """Detached and attached elsewhere, an adapter goes on from its own KV."""
    alone = once(backend, [4, 5, 6, 7], 0, sequence=3)
    lane = Lane(0, 0, [4, 5, 6, 7])
    advance(backend, [(lane, lane.chunk(3))])
    for slot in (0, 1):
        backend.detach(slot)
    backend.attach(1, backend.load(kind.paths[0]))
    lane.slot = 1
    advance(backend, [(lane, lane.chunk(1))])
    assert lane.logits is not None and distance(lane.logits, alone) < NOISE


def test_slots_are_checked(backend: Backend, kind: Kind) -> None:
    """A taken slot and ones that are not there are refused; an emptied one can be filled again."""
    loaded = backend.load(kind.paths[0])
    for slot in (0, 4, -1):
        with pytest.raises(BackendError):
            backend.attach(slot, loaded)
    backend.detach(3)
    backend.attach(3, loaded)
    assert distance(once(backend, [4, 5], 3), once(backend, [4, 5], 0)) == 0
    assert loaded.nbytes > 0


def test_an_object_of_another_backend_is_refused(backend: Backend) -> None:
    """Nothing is attached by it."""

    class Foreign:
        nbytes = 0

    backend.detach(3)
    with pytest.raises(BackendError):
        backend.attach(3, Foreign())
    with pytest.raises(BackendError):
        backend.step([chunk(0, 0, (1,), 3)])


def test_wrong_cuts_and_copies_are_refused(backend: Backend) -> None:
    """More than is held, less than nothing, another sequence; cutting to nothing is always right."""
    backend.step([chunk(0, 0, (1, 2))])
    for sequence, length in ((0, 3), (0, -1), (1, 1), (99, 1), (-1, 0)):
        with pytest.raises(BackendError):
            backend.truncate(sequence, length)
    for source, target, length in ((0, 1, 3), (0, 1, 0), (0, 99, 1), (1, 2, 1), (0, 0, 1)):
        with pytest.raises(BackendError):
            backend.copy(source, target, length)
    backend.truncate(0, 2)
    backend.truncate(0, 0)
    backend.truncate(0, 0)
    assert backend.step([chunk(0, 0, (1,))])[0] is not None


def test_logits_are_the_callers_to_keep(backend: Backend) -> None:
    """A later step does not change the arrays of an earlier one, and who has them may write to them."""
    first = once(backend, [1, 2], 0)
    kept = first.copy()
    once(backend, [3, 4], 1)
    assert first.dtype == np.float32 and np.array_equal(first, kept)
    first[:] = 0.0
    assert distance(once(backend, [1, 2], 0), kept) < NOISE


def test_the_vocabulary_is_the_bases(backend: Backend, kind: Kind) -> None:
    """As many logits as tokens; text there and back; control tokens only where asked for."""
    tokenizer = backend.tokenizer
    assert once(backend, [1], None).shape == (tokenizer.size,)
    for text in ("a", "é<|eot_id|>!", "\x00 日本"):
        ids = tokenizer.tokenize(text, special=False, bos=False)
        assert b"".join(tokenizer.piece(token) for token in ids).decode() == text
    (end,) = tokenizer.tokenize("<|eot_id|>", special=True, bos=False)
    assert end in tokenizer.end_ids and tokenizer.piece(end) == b""
    assert len(tokenizer.tokenize("", special=True, bos=True)) == 1
    assert tokenizer.fewest_tokens("a" * 9000) <= 9000
    if kind.computes:
        assert tokenizer.size == GQA.vocab


def test_close_is_safe_twice(kind: Kind) -> None:
    """With adapters attached and KV held."""
    backend = attach_all(kind.open(), kind)
    backend.step([chunk(0, 0, (1, 2), 0)])
    backend.close()
    backend.close()
    if kind.computes:  # The fake is stricter: nobody detaches twice.
        backend.detach(0)
    with pytest.raises(BackendError):
        backend.step([chunk(1, 0, (1,))])
