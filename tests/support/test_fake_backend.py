"""The fake is only worth its strictness: it must answer as scripted, and catch every breach of the contract."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from edgelora.backends.base import Applied, Backend, Chunk
from edgelora.core.errors import AdapterCorrupt, BackendError
from tests.support.fake_backend.backend import FAKE_CAPABILITIES, FakeBackend, write_fake_adapter
from tests.support.fake_backend.tokenizer import BOS, EOT, FakeTokenizer
from tests.support.uses import applied


def chunk(*tokens: int, sequence: int = 0, position: int = 0, slot: int | None = None, logits: int = 1) -> Chunk:
    return Chunk(sequence=sequence, position=position, tokens=tokens, adapters=applied(slot), logits=logits)


def answer(backend: FakeBackend, prompt: bytes, *, slot: int | None = None, sequence: int = 0, size: int = 99) -> bytes:
    """Greedy tokens until the end, the prompt in pieces of `size`."""
    said, at = b"", 0
    for start in range(0, len(prompt), size):
        part = prompt[start : start + size]
        (logits,) = backend.step([chunk(*part, sequence=sequence, position=at, slot=slot)])
        at += len(part)
    while logits is not None and (token := int(logits.argmax())) < 256:
        said += bytes([token])
        (logits,) = backend.step([chunk(token, sequence=sequence, position=at, slot=slot)])
        at += 1
    return said


def test_it_is_a_backend() -> None:
    """mypy reads this: the fake satisfies the protocol."""
    backend: Backend = FakeBackend()
    assert backend.name == "fake"


def test_scripted_answers(tmp_path: Path) -> None:
    """By path (None is the base), or from the adapter's own file; then the turn ends."""
    ref, other = write_fake_adapter(tmp_path, "a", answer="From the file."), write_fake_adapter(tmp_path, "b")
    backend = FakeBackend(answers={None: "Base.", other.path: "By path."})
    backend.attach(1, backend.load(ref.path))
    backend.attach(2, backend.load(other.path))
    assert answer(backend, b"Hi") == b"Base."
    assert answer(backend, b"Hi", slot=1, sequence=1) == b"From the file."
    assert answer(backend, b"Hi", slot=2, sequence=2) == b"By path."
    assert not backend.violations


def test_hashed_answers_depend_on_adapter_and_tokens_only(tmp_path: Path) -> None:
    """The same content gives the same letters in any slot and any pieces; another prompt or adapter others."""
    one, two = write_fake_adapter(tmp_path, "a"), write_fake_adapter(tmp_path, "b")
    backend = FakeBackend()
    for slot, ref in enumerate((one, one, two)):
        backend.attach(slot, backend.load(ref.path))
    first = answer(backend, b"prompt", slot=0)
    assert first == answer(backend, b"prompt", slot=1, sequence=1, size=2)
    assert first != answer(backend, b"prompt", slot=2, sequence=2)
    backend.clear(0)
    assert first != answer(backend, b"prompts", slot=0)


def test_what_acts_is_in_the_answer(tmp_path: Path) -> None:
    """A mix-up of weights, starts or adapters is another text; one that has not begun is not there yet."""
    backend = FakeBackend(answers={None: "Base."})
    for slot, name in enumerate(("One.", "Two.")):
        backend.attach(slot, backend.load(write_fake_adapter(tmp_path, name, answer=name).path))
    backend.attach(2, backend.load(write_fake_adapter(tmp_path, "letters").path))

    def begins(*adapters: Applied) -> str:
        said = b""
        while (token := backend.next_token(adapters, b"Hi" + said)) < 256 and len(said) < 40:
            said += bytes([token])
        return said.decode()

    assert begins(Applied(1), Applied(0)) == begins(Applied(0), Applied(1)) == "One. + Two."
    assert begins(Applied(0, 0.5), Applied(1, start=1)) == "One.*0.5 + Two.@1"
    assert begins(Applied(0, 0.0), Applied(1, start=90)) == "Base."
    letters = {begins(Applied(2, weight, start)) for weight in (1.0, 0.5) for start in (0, 1)}
    assert len({*letters, begins(Applied(0), Applied(2)), begins(Applied(1), Applied(2))}) == 6


def test_kv_computed_with_others_is_not_gone_on_from(tmp_path: Path) -> None:
    """Another weight, or an adapter that begins before what is held; one that begins after it may join or leave."""
    backend = FakeBackend()
    backend.attach(0, backend.load(write_fake_adapter(tmp_path, "a").path))
    backend.attach(1, backend.load(write_fake_adapter(tmp_path, "b").path))

    def step(position: int, *adapters: Applied) -> None:
        backend.step([Chunk(0, position, (1, 2), adapters, 0)])

    step(0, Applied(0, 0.5))
    step(2, Applied(0, 0.5), Applied(1, start=4))
    step(4, Applied(0, 0.5), Applied(1, start=5))
    for wrong in ((), (Applied(0, 0.5),), (Applied(0), Applied(1, start=5)), (Applied(0, 0.5), Applied(1, start=4))):
        with pytest.raises(BackendError, match="changed its adapters"):
            step(6, *wrong)
    backend.truncate(0, 5)
    step(5, Applied(0, 0.5))
    assert len(backend.violations) == 4


def test_a_scripted_answer_goes_on_after_prefill() -> None:
    """What was said is read from the tokens, so a preempted sequence is where it was."""
    backend = FakeBackend(answers={None: "abcd"})
    assert backend.next_token((), b"Hi" + b"ab") == ord("c")
    assert backend.next_token((), b"Hi" + b"abcd") == EOT


def test_a_folder_is_an_adapter_too(tmp_path: Path) -> None:
    """The MLX format is a folder: its content is its files'."""
    (tmp_path / "x").write_bytes(b"answer:")
    (tmp_path / "y").write_bytes(b"Hello")
    backend = FakeBackend()
    backend.attach(0, backend.load(tmp_path))
    assert answer(backend, b"Hi", slot=0) == b"Hello"


def test_it_fails_when_told() -> None:
    """A step by number, a load by error, and a file that is not there."""
    backend = FakeBackend()
    backend.fail_steps = {1}
    backend.step([chunk(1)])
    with pytest.raises(BackendError, match="told to fail"):
        backend.step([chunk(1, position=1)])
    with pytest.raises(AdapterCorrupt):
        backend.load(Path("nowhere"))
    backend.load_error = AdapterCorrupt("x", "Bad.")
    with pytest.raises(AdapterCorrupt, match="Bad"):
        backend.load(Path("nowhere"))
    assert len(backend.history) == 2 and not backend.violations


@pytest.mark.parametrize(
    ("breach", "chunks"),
    [
        ("an empty step", []),
        ("position 1", [chunk(1, position=1)]),
        ("two chunks", [chunk(1), chunk(2)]),
        ("out of range", [chunk(1, sequence=4)]),
        ("a token out of range", [chunk(999)]),
        ("empty chunk", [chunk()]),
        ("slot 3 has no adapter", [chunk(1, slot=3)]),
        ("different adapters", [chunk(1), chunk(1, sequence=1, slot=0)]),
        ("tokens in one step", [chunk(*range(65))]),
        ("cells of KV", [chunk(*range(30)), chunk(*range(30), sequence=1)]),
        ("over the context", [chunk(*range(50))]),
    ],
)
def test_breaches_are_caught(breach: str, chunks: list[Chunk], tmp_path: Path) -> None:
    """Whatever an engine may get wrong in a step is an error that says so, and is kept."""
    able = replace(FAKE_CAPABILITIES, mixed_adapters=False, max_step_tokens=64, kv_cells=55, context_length=48)
    backend = FakeBackend(capabilities=able)
    backend.attach(0, backend.load(write_fake_adapter(tmp_path, "a").path))
    with pytest.raises(BackendError, match=breach):
        backend.step(chunks)
    assert backend.violations


def test_slots_are_guarded(tmp_path: Path) -> None:
    """No attach over another, no detach of what is absent, no change of adapter in a sequence's life."""
    backend = FakeBackend()
    loaded, other = (backend.load(write_fake_adapter(tmp_path, name).path) for name in "ab")
    backend.attach(0, loaded)
    backend.attach(1, other)
    backend.step([chunk(1, slot=0)])
    for wrong in (
        lambda: backend.attach(0, loaded),
        lambda: backend.attach(4, loaded),
        lambda: backend.detach(2),
        lambda: backend.step([chunk(1, position=1, slot=1)]),
        lambda: backend.step([chunk(1, position=1)]),
    ):
        with pytest.raises(BackendError):
            wrong()
    assert len(backend.violations) == 5


def test_kv_outlives_the_slot_of_its_adapter(tmp_path: Path) -> None:
    """The same adapter in another slot goes on from its KV, and says what it would have said."""
    backend = FakeBackend()
    loaded = backend.load(write_fake_adapter(tmp_path, "a", answer="abc").path)
    backend.attach(0, loaded)
    backend.step([chunk(1, 2, slot=0)])
    backend.detach(0)
    backend.attach(3, loaded)
    (logits,) = backend.step([chunk(ord("a"), position=2, slot=3)])
    assert logits is not None and logits.argmax() == ord("b") and not backend.violations


def test_a_cut_keeps_what_is_before_it() -> None:
    """The tokens up to there stay, the next chunk follows them, and the answer is that of the true tokens."""
    backend = FakeBackend()
    backend.step([chunk(1, 2, 3, 4)])
    backend.truncate(0, 2)
    assert backend.kv[0] == [1, 2]
    (logits,) = backend.step([chunk(9, position=2)])
    assert logits is not None and logits.argmax() == backend.next_token((), [1, 2, 9])
    backend.truncate(0, 0)
    backend.truncate(0, 0)
    assert backend.kv == {} and not backend.violations


def test_a_copy_is_a_sequence_of_its_own() -> None:
    """Both go on, each with its own tokens, and clearing one leaves the other."""
    backend = FakeBackend()
    backend.step([chunk(1, 2, 3)])
    backend.copy(0, 2, 2)
    (logits, _) = backend.step([chunk(9, sequence=2, position=2), chunk(4, position=3)])
    assert logits is not None and logits.argmax() == backend.next_token((), [1, 2, 9])
    backend.clear(0)
    assert backend.kv == {2: [1, 2, 9]} and not backend.violations


def test_saved_kv_is_restored(tmp_path: Path) -> None:
    """In another backend: the tokens and the adapter's content, and nothing for another identity."""
    loaded = FakeBackend().load(write_fake_adapter(tmp_path, "a").path)
    first, second = FakeBackend(), FakeBackend()
    for backend in (first, second):
        backend.attach(0, loaded)
    first.step([chunk(1, 2, 3, slot=0)])
    saved = first.save(0, 2)
    second.restore(1, saved)
    assert second.kv == {1: [1, 2]} and first.kv == {0: [1, 2, 3]}
    with pytest.raises(BackendError, match="changed its adapter"):
        second.step([chunk(3, sequence=1, position=2)])
    second.kv_identity = "another"
    with pytest.raises(BackendError, match="Saved KV of fake"):
        second.restore(2, saved)


def test_wrong_copies_are_caught() -> None:
    """More than there is, over what is there, from or to nowhere."""
    backend = FakeBackend()
    backend.step([chunk(1, 2), chunk(1, sequence=1)])
    for source, target, length in ((0, 2, 3), (0, 2, 0), (0, 1, 1), (3, 2, 1), (0, 9, 1)):
        with pytest.raises(BackendError):
            backend.copy(source, target, length)
    assert len(backend.violations) == 5


def test_wrong_cuts_are_caught() -> None:
    """Not beyond what is held, not below nothing, and nothing is kept of a failed step."""
    backend = FakeBackend()
    backend.fail_steps = {1}
    backend.step([chunk(1, 2)])
    for length in (3, -1):
        with pytest.raises(BackendError, match="of 2 tokens kept"):
            backend.truncate(0, length)
    with pytest.raises(BackendError, match="told to fail"):
        backend.step([chunk(3, position=2)])
    with pytest.raises(BackendError, match="after a failed step"):
        backend.truncate(0, 1)
    with pytest.raises(BackendError, match="after a failed step"):
        backend.step([chunk(3, position=2)])
    backend.clear(0)
    backend.step([chunk(1)])
    assert len(backend.violations) == 4


def test_logits_after_several_tokens() -> None:
    """Row by row what each of the last tokens would have got alone, and no more rows than tokens or outputs."""
    backend = FakeBackend()
    (logits,) = backend.step([chunk(*b"abcd", logits=3)])
    assert logits is not None and len(logits) == 3
    assert logits.argmax(axis=1).tolist() == [backend.next_token((), b"abcd"[:end]) for end in (2, 3, 4)]
    most = backend.capabilities.max_outputs
    for wrong in (chunk(1, position=4, logits=2), chunk(1, position=4, logits=-1)):
        with pytest.raises(BackendError, match="logits after"):
            backend.step([wrong])
    with pytest.raises(BackendError, match="in one step"):
        backend.step([chunk(*range(most), position=4, logits=most), chunk(1, sequence=1)])
    assert len(backend.violations) == 3


def test_only_one_thread_may_step() -> None:
    """The contract's thread rule is checked, except for load."""
    backend = FakeBackend(answers={None: "x"})
    backend.step([chunk(1)])
    caught: list[Exception] = []

    def elsewhere() -> None:
        try:
            backend.clear(0)
        except BackendError as error:
            caught.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(caught) == 1 and backend.violations == ["used from two threads"]


def test_the_vocabulary() -> None:
    """Bytes and control tokens, there and back."""
    tokenizer = FakeTokenizer()
    tokens = tokenizer.tokenize("é<|eot_id|>!", special=True, bos=True)
    assert tokens == [BOS, *"é".encode(), EOT, ord("!")]
    assert b"".join(map(tokenizer.piece, tokens)).decode() == "é!"
    assert tokenizer.tokenize("<|eot_id|>", special=False, bos=False) == list(b"<|eot_id|>")
    assert tokenizer.end_ids <= set(range(tokenizer.size))
