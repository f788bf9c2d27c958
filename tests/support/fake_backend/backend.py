"""A backend without a model: scripted answers, recorded steps, a strict check of the backend contract.

Owns nothing outside this process. Used by the tests of the engine, the server and the CLI. What it answers is a pure
function of (what acts: adapter contents, weights, starts; tokens so far), so a mixed batch can be compared with each
sequence alone:

- a scripted answer, where all that acts has one: from `answers[path]` (`answers[None]` is the base alone), or from an
  adapter file that starts with `answer:`; the text is said from its start, then the turn ends. Several are said as
  `One.*0.5 + Two.@7`: each with its weight and its start, where they are not 1 and 0;
- otherwise letters drawn from a hash of (what acts, tokens), ending after about sixteen of them.

Tests steer it through attributes: `fail_steps`, `load_error`, `step_gate`, `load_gate`, and wait on `stepping`,
`loading`. Every breach of the contract is raised as BackendError(code "contract") and kept in `violations`.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgelora.backends.base import Applied, Capabilities, Chunk, Loaded
from edgelora.core.errors import AdapterCorrupt, BackendError
from edgelora.core.kv import SavedKv
from edgelora.core.request import AdapterRef
from tests.support.fake_backend.answers import mark, said
from tests.support.fake_backend.tokenizer import EOT, FakeTokenizer

FAKE_CAPABILITIES = Capabilities(
    adapter_format="mapped",
    mixed_adapters=True,
    max_slots=4,
    max_sequences=4,
    max_step_tokens=256,
    context_length=2048,
    kv_cells=8192,
    max_outputs=20,
)

_ANSWER = b"answer:"
_LETTERS = b" etaoinshrdlu,.?"
_GATE_SECONDS = 30.0

Acting = frozenset[tuple["FakeLoaded", float]]
"""The adapters, with their weights, whose delta a position gets."""


@dataclass(frozen=True, slots=True)
class FakeLoaded:
    path: Path
    content: bytes

    @property
    def nbytes(self) -> int:
        return len(self.content)


def write_fake_adapter(folder: Path, name: str, *, answer: str | None = None, nbytes: int | None = None) -> AdapterRef:
    """Write an adapter file only the fake understands, and its reference. Without `answer` it speaks hashed letters."""
    content = f"adapter {name}".encode() if answer is None else _ANSWER + answer.encode()
    path = folder / f"{name}.gguf"
    path.write_bytes(content)
    version = hashlib.sha256(content).hexdigest()
    return AdapterRef(name=name, version=version, path=path, nbytes=len(content) if nbytes is None else nbytes)


class FakeBackend:
    """See the module. `history` holds the chunks of every step asked for, failed ones included."""

    def __init__(
        self,
        *,
        answers: Mapping[Path | None, str] | None = None,
        capabilities: Capabilities = FAKE_CAPABILITIES,
        tokenizer: FakeTokenizer | None = None,
    ) -> None:
        self.capabilities = capabilities
        self.tokenizer = tokenizer or FakeTokenizer()
        self.answers = dict(answers or {})
        self.history: list[tuple[Chunk, ...]] = []
        self.loads: list[Path] = []
        self.slots: dict[int, FakeLoaded] = {}
        self.kv: dict[int, list[int]] = {}
        self._kv_acting: dict[int, list[tuple[int, Acting]]] = {}
        """What acted on the tokens of `kv`, each with the position it began at."""
        self.violations: list[str] = []
        self.closed = False
        self.kv_identity = "fake"
        self.fail_steps: set[int] = set()
        """Numbers of the steps (from 0, failed ones counted) that raise."""
        self.load_error: Exception | None = None
        self.step_gate, self.load_gate = threading.Event(), threading.Event()
        """Cleared: a step, or a load, waits here until the test sets it."""
        self.step_gate.set()
        self.load_gate.set()
        self.stepping, self.loading = threading.Event(), threading.Event()
        """Set when a step, or a load, has been entered."""
        self._undefined: set[int] = set()  # of a failed step
        self._thread: int | None = None

    @property
    def name(self) -> str:
        return "fake"

    def load(self, path: Path) -> FakeLoaded:
        self.loads.append(path)
        self.loading.set()
        self._wait(self.load_gate)
        if self.load_error is not None:
            raise self.load_error
        if not path.exists():
            raise AdapterCorrupt("adapter_corrupt", f"There is no adapter at {path}.", "Install the adapter again.")
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        return FakeLoaded(path=path, content=b"".join(p.read_bytes() for p in files))

    def attach(self, slot: int, loaded: Loaded) -> None:
        self._check_thread()
        self._check(isinstance(loaded, FakeLoaded), f"slot {slot}: not an adapter of this backend")
        self._check(0 <= slot < self.capabilities.max_slots, f"slot {slot} is out of range")
        self._check(slot not in self.slots, f"slot {slot} is not free")
        if isinstance(loaded, FakeLoaded):
            self.slots[slot] = loaded

    def detach(self, slot: int) -> None:
        self._check_thread()
        self._check(slot in self.slots, f"slot {slot} has no adapter")
        del self.slots[slot]

    def step(self, chunks: Sequence[Chunk]) -> list[NDArray[np.float32] | None]:
        number = len(self.history)
        self.history.append(tuple(chunks))
        self._check_thread()
        self.stepping.set()
        self._wait(self.step_gate)
        self._check_step(chunks)
        if number in self.fail_steps:
            self._undefined.update(chunk.sequence for chunk in chunks)
            raise BackendError("fake_failure", f"Step {number} was told to fail.")
        return [self._compute(chunk) for chunk in chunks]

    def clear(self, sequence: int) -> None:
        self.truncate(sequence, 0)

    def truncate(self, sequence: int, length: int) -> None:
        self._check_kept(sequence, length)
        if length:
            del self.kv[sequence][length:]
            self._kv_acting[sequence] = _before(self._kv_acting[sequence], length)
            return
        self.kv.pop(sequence, None)
        self._kv_acting.pop(sequence, None)
        self._undefined.discard(sequence)

    def copy(self, source: int, target: int, length: int) -> None:
        self._check_kept(source, length)
        self._check(0 <= target < self.capabilities.max_sequences, f"sequence {target} is out of range")
        self._check(length > 0 and target not in self.kv, f"sequence {target} holds something, or is to get nothing")
        self.kv[target] = self.kv[source][:length]
        self._kv_acting[target] = _before(self._kv_acting[source], length)

    def save(self, sequence: int, length: int) -> SavedKv:
        self._check_kept(sequence, length)
        self._check(length > 0, f"sequence {sequence}: nothing to save")
        data = _spell(self.kv[sequence][:length], _before(self._kv_acting[sequence], length))
        return SavedKv(self.kv_identity, length, memoryview(data))

    def restore(self, sequence: int, saved: SavedKv) -> None:
        self._check_kept(sequence, 0)
        self._check(sequence not in self.kv, f"sequence {sequence} holds something")
        cells = sum(map(len, self.kv.values())) + saved.length
        self._check(cells <= self.capabilities.kv_cells, f"{cells} cells of KV")
        if saved.identity != self.kv_identity:
            raise BackendError("foreign_kv", f"Saved KV of {saved.identity}.")
        tokens, acting = _read(bytes(saved.data))
        self._check(len(tokens) == saved.length, f"{saved.length} tokens of saved KV")
        self.kv[sequence], self._kv_acting[sequence] = tokens, acting

    def allocated_bytes(self) -> tuple[int, int]:
        return (0, 0)

    def close(self) -> None:
        self.closed = True

    def logits_after(self, adapters: Sequence[Applied], tokens: Sequence[int]) -> NDArray[np.float32]:
        """[vocabulary.size], all but certain of the next token."""
        logits = np.zeros(self.tokenizer.size, np.float32)
        logits[self.next_token(adapters, tokens)] = 20.0
        return logits

    def next_token(self, adapters: Sequence[Applied], tokens: Sequence[int]) -> int:
        """What follows `tokens` under those of the adapters that have begun: the whole of this model."""
        begun = [(self.slots[a.slot], a.weight, a.start) for a in adapters if a.weight and a.start < len(tokens)]
        begun.sort(key=lambda part: (part[0].content, part[0].path))
        answer = self._composed_answer(begun)
        if answer is not None:
            spoken = said(answer, tokens)
            return answer[spoken] if spoken < len(answer) else EOT
        content = b"".join(loaded.content + mark(weight, start) for loaded, weight, start in begun)
        digest = hashlib.blake2b(content + b"|" + repr(list(tokens)).encode(), digest_size=2).digest()
        return EOT if digest[0] < 16 else _LETTERS[digest[1] % len(_LETTERS)]

    def _composed_answer(self, begun: Sequence[tuple[FakeLoaded, float, int]]) -> bytes | None:
        if not begun:
            return self._answer(None)
        parts = [(self._answer(loaded), mark(weight, start)) for loaded, weight, start in begun]
        whole = [part + acting for part, acting in parts if part]
        return b" + ".join(whole) if len(whole) == len(parts) else None

    def _answer(self, loaded: FakeLoaded | None) -> bytes | None:
        path = None if loaded is None else loaded.path
        if path in self.answers:
            return self.answers[path].encode()
        if loaded is not None and loaded.content.startswith(_ANSWER):
            return loaded.content.removeprefix(_ANSWER)
        return None

    def _compute(self, chunk: Chunk) -> NDArray[np.float32] | None:
        tokens = self.kv.setdefault(chunk.sequence, [])
        tokens += chunk.tokens
        self._kv_acting[chunk.sequence] = self._acting(chunk, len(tokens))
        if not chunk.logits:
            return None
        ends = range(len(tokens) - chunk.logits + 1, len(tokens) + 1)
        return np.stack([self.logits_after(chunk.adapters, tokens[:end]) for end in ends])

    def _acting(self, chunk: Chunk, length: int) -> list[tuple[int, Acting]]:
        """As `_kv_acting`, for so many positions of the chunk's sequence."""
        parts = [(a.start, (self.slots[a.slot], a.weight)) for a in chunk.adapters if a.weight]
        starts = sorted({0, *(start for start, _ in parts)})
        return _before([(at, frozenset(part for start, part in parts if start <= at)) for at in starts], length)

    def _check_step(self, chunks: Sequence[Chunk]) -> None:
        able = self.capabilities
        tokens = sum(len(chunk.tokens) for chunk in chunks)
        cells = sum(map(len, self.kv.values())) + tokens
        self._check(bool(chunks), "an empty step")
        self._check(not self.closed, "a step after close")
        self._check(tokens <= able.max_step_tokens, f"{tokens} tokens in one step")
        self._check(cells <= able.kv_cells, f"{cells} cells of KV")
        outputs = sum(chunk.logits for chunk in chunks)
        self._check(outputs <= able.max_outputs, f"logits after {outputs} tokens in one step")
        self._check(len({c.sequence for c in chunks}) == len(chunks), "two chunks of one sequence")
        for chunk in chunks:
            self._check_chunk(chunk)
        # At the first token of each chunk, and at its last.
        ends = {self._acting(c, c.position + at)[-1][1] for c in chunks for at in (1, len(c.tokens))}
        self._check(able.mixed_adapters or len(ends) == 1, "different adapters in one step")

    def _check_chunk(self, chunk: Chunk) -> None:
        sequence, able = chunk.sequence, self.capabilities
        held = len(self.kv.get(sequence, ()))
        self._check(0 <= sequence < self.capabilities.max_sequences, f"sequence {sequence} is out of range")
        self._check(chunk.position == held, f"sequence {sequence}: position {chunk.position} after {held} tokens")
        self._check(bool(chunk.tokens), f"sequence {sequence}: an empty chunk")
        self._check(0 <= chunk.logits <= len(chunk.tokens), f"sequence {sequence}: logits after {chunk.logits} tokens")
        self._check(held + len(chunk.tokens) <= able.context_length, f"sequence {sequence} is over the context")
        known = all(0 <= token < self.tokenizer.size for token in chunk.tokens)
        self._check(known, f"sequence {sequence}: a token out of range")
        for applied in chunk.adapters:
            self._check(applied.slot in self.slots, f"slot {applied.slot} has no adapter")
        self._check(len({a.slot for a in chunk.adapters}) == len(chunk.adapters), "a slot is named twice")
        same = self._kv_acting.get(sequence, []) == self._acting(chunk, held)
        self._check(same, f"sequence {sequence} changed its adapters")
        self._check(sequence not in self._undefined, f"sequence {sequence}: gone on with after a failed step")

    def _check_kept(self, sequence: int, length: int) -> None:
        self._check_thread()
        self._check(0 <= sequence < self.capabilities.max_sequences, f"sequence {sequence} is out of range")
        held = len(self.kv.get(sequence, ()))
        self._check(0 <= length <= held, f"sequence {sequence}: {length} of {held} tokens kept")
        self._check(not length or sequence not in self._undefined, f"sequence {sequence}: kept after a failed step")

    def _check_thread(self) -> None:
        self._thread = self._thread or threading.get_ident()
        self._check(self._thread == threading.get_ident(), "used from two threads")

    def _check(self, holds: bool, breach: str) -> None:
        if not holds:
            self.violations.append(breach)
            raise BackendError("contract", f"The backend contract is broken: {breach}.")

    def _wait(self, gate: threading.Event) -> None:
        # A forgotten gate must fail its test instead of hanging the whole run.
        self._check(gate.wait(_GATE_SECONDS), "a gate was never opened")


def _before(acting: list[tuple[int, Acting]], length: int) -> list[tuple[int, Acting]]:
    return [(at, parts) for at, parts in acting if at < length]


def _spell(tokens: list[int], acting: list[tuple[int, Acting]]) -> bytes:
    """As JSON: what acted by its path and content."""
    parts = [[at, [[str(one.path), one.content.decode("latin-1"), weight] for one, weight in a]] for at, a in acting]
    return json.dumps([tokens, parts]).encode()


def _read(data: bytes) -> tuple[list[int], list[tuple[int, Acting]]]:
    tokens, parts = json.loads(data)
    loaded = [[at, ((FakeLoaded(Path(p), c.encode("latin-1")), w) for p, c, w in acting)] for at, acting in parts]
    return tokens, [(at, frozenset(acting)) for at, acting in loaded]
