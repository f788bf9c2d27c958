"""The whole engine over the real tiny base: whatever else is in the batch, each answer is the one it has alone.

Not bit for bit: how a base rounds depends on how many rows a product has. So the bound is the base's own noise,
measured in the same run: requests without any adapter, in mixed steps, against the same alone. Under an adapter a
position is off on average at most twice as far as the base's, and none more than three times as far as the worst of the
base's; under several with weights six times. A token may differ only where the likeliest is less than the same bound
ahead: a tie. Once on the base as it is installed (Q8_0, where rounding is coarse), once on the same base in float32,
where the noise is 1e-5 of a deviation: ten times that, and twenty, is still a thousandth of what a row of another
adapter would show.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from benchmarks.harness.homes import builtin_home, settings_of
from edgelora.backends.base import Backend
from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora.backends.llama_cpp.options import BackendOptions
from edgelora.core.errors import AdapterError
from edgelora.core.request import AdapterRef, AdapterUse, Request
from edgelora.core.sampling_params import SamplingParams
from edgelora.store.library import open_library
from edgelora_converters.base.gguf import write_base_gguf
from edgelora_models.builtin import base_hf
from tests.support.alone import Alone, Bound, Tally
from tests.support.kept import KeptPrefixes
from tests.support.stepped import Narrowed, SteppedEngine

OPTIONS = BackendOptions(
    context_length=96, max_sequences=16, max_step_tokens=96, max_slots=8, threads=1, kv_cells=1024, max_outputs=64
)
MEAN = 2.0
WORST = {"Q8_0": 3.0, "F32": 10.0}
"""How many times the base's noise an adapter may be off, on average and at worst."""
COMPOSED = 2.0
"""How many times that, where several act, or one with another weight."""
NAMES = 8
TEXTS = [random.Random(seed).choices(range(300, 1700), k=60) for seed in range(2)]
TEXTS.append(random.Random(2).choices(range(300, 1700), k=5) * 12)  # repeats itself, so that drafts are made


@dataclass
class Lab:
    """A base, two backends on it, twelve adapters, and the base's noise."""

    backend: Backend
    alone: Alone
    refs: tuple[AdapterRef, ...]
    worst: float
    """Of WORST."""
    noise: Bound = field(default_factory=Bound)
    kept: KeptPrefixes = field(default_factory=KeptPrefixes)
    """KV that an engine before left on disk."""

    def allowed(self, request: Request) -> Bound:
        plain = all(use.weight == 1 for use in request.adapters) and len(request.adapters) < 2
        return self.noise.times(self.worst if plain else self.worst * COMPOSED)

    def engine(
        self,
        *,
        sequences: int,
        slots: int,
        step: int,
        cells: int = 1024,
        nbytes: int = 1 << 30,
        speculate: bool = False,
    ) -> SteppedEngine:
        able = replace(
            self.backend.capabilities, max_sequences=sequences, max_slots=slots, max_step_tokens=step, kv_cells=cells
        )
        kept = KeptPrefixes(dict(self.kept.held))
        narrowed = Narrowed(self.backend, able)
        return SteppedEngine(narrowed, adapter_budget_bytes=nbytes, max_queue=30, prefixes=kept, speculate=speculate)

    def keep(self) -> None:
        """Compute the beginnings of two texts, on the base and under two adapters, and keep their KV."""
        engine = SteppedEngine(
            Narrowed(self.backend, self.backend.capabilities),
            adapter_budget_bytes=1 << 30,
            max_queue=30,
            prefixes=self.kept,
        )
        engine.loads.at_once = True
        texts = [(TEXTS[0], ()), (TEXTS[0], (AdapterUse(self.refs[0]),)), (TEXTS[1], (AdapterUse(self.refs[1]),))]
        for number, (text, uses) in enumerate(texts):
            engine.submit(Request(f"k{number}", tuple(text[:45]), uses, SamplingParams(max_tokens=1), system=40))
        engine.finish(turns=100)
        engine.end(drain=True)

    def verify(self, engine: SteppedEngine, requests: dict[str, Request]) -> Tally:
        """All that was chosen, of ended and cancelled requests alike. Raises AssertionError."""
        tally = Tally()
        for name, request in requests.items():
            self.alone.compare(request, engine.chosen[name], tally, bound=self.allowed(request))
        return tally


LABS: dict[str, Lab] = {}


@pytest.fixture(scope="module", autouse=True)
def labs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    home = builtin_home(tmp_path_factory.mktemp("home"), 8, rank=4)
    library = open_library(settings_of(home.path))
    base = library.bases.current()
    exact = home.path / "f32.gguf"
    write_base_gguf(base_hf(), exact, quantization="F32")
    refs = tuple(library.store.ref(name, base) for name in library.store.names())
    shape = base.identity.fingerprint.shape
    opened: list[LlamaCppBackend] = []
    for name, path, options in (("Q8_0", base.path, OPTIONS), ("F32", exact, replace(OPTIONS, kv_type="f32"))):
        mixed, single = (LlamaCppBackend.open(path, shape=shape, settings=options) for _ in range(2))
        opened += [mixed, single]
        LABS[name] = Lab(mixed, Alone(single), refs, WORST[name])
        LABS[name].keep()
        LABS[name].noise = crowd(LABS[name], (), rounds=6, seed=1).bound
    yield
    LABS.clear()
    for backend in opened:
        backend.close()


def crowd(lab: Lab, refs: tuple[AdapterRef, ...], *, rounds: int, seed: int) -> Tally:
    """Random requests in batches of random size, each on one of `refs` or, where there is none, on the base."""
    chance = random.Random(seed)
    whole = Tally()
    for _ in range(rounds):
        engine = lab.engine(sequences=chance.randint(2, 16), slots=8, step=chance.randint(2, 40))
        engine.loads.at_once = True
        requests: dict[str, Request] = {}
        for number in range(chance.randint(4, 12)):
            prompt = tuple(chance.choices(range(300, 1700), k=chance.randint(1, 50)))
            uses = (AdapterUse(chance.choice(refs)),) if refs else ()
            request = Request(f"r{number}", prompt, uses, SamplingParams(max_tokens=chance.randint(1, 12)))
            requests[request.id] = request
            engine.submit(request)
            for _ in range(chance.randint(0, 3)):
                engine.turn()
        engine.finish(turns=2000)
        found = lab.verify(engine, requests)
        whole.worst += found.worst
        whole.squares += found.squares
        whole.flips += found.flips
        engine.end(drain=True)
    return whole


@pytest.mark.parametrize("quantization", ["Q8_0", "F32"])
def test_adapters_add_no_noise(quantization: str) -> None:
    """On average, too, a position under eight adapters in one batch is off no more than twice as far as the base's."""
    lab = LABS[quantization]
    base, adapters = crowd(lab, (), rounds=4, seed=2), crowd(lab, lab.refs[:8], rounds=4, seed=2)
    mean = [sum(tally.squares) / len(tally.squares) for tally in (base, adapters)]
    assert mean[1] <= MEAN * mean[0] and len(adapters.squares) > 100
    assert len(adapters.flips) <= 0.05 * len(adapters.squares)
    assert quantization == "Q8_0" or (lab.noise.worst < 1e-4 and not adapters.flips)


@pytest.mark.parametrize("quantization", ["Q8_0", "F32"])
def test_another_adapters_answer_is_far_beyond_the_noise(quantization: str) -> None:
    """The comparison can fail: an answer computed under one adapter is not that of another, nor of half its weight."""
    lab = LABS[quantization]
    engine = lab.engine(sequences=1, slots=1, step=64)
    engine.loads.at_once = True
    right = Request("r", tuple(TEXTS[0][:20]), (AdapterUse(lab.refs[0]),), SamplingParams(max_tokens=4))
    engine.submit(right)
    engine.finish(turns=100)
    lab.verify(engine, {"r": right})
    for wrong in (AdapterUse(lab.refs[1]), AdapterUse(lab.refs[0], 0.5), AdapterUse(lab.refs[0], start=10)):
        with pytest.raises(AssertionError, match="noise is"):
            lab.verify(engine, {"r": replace(right, adapters=(wrong,))})
    engine.end(drain=True)


class MixedMachine(RuleBasedStateMachine):
    """Requests on eight names and the base, several adapters at once, turns of a chat, prefixes from disk, cancels,
    replaced adapters, evictions, and steps so small that prompts are cut anywhere."""

    quantization = ""
    engine: SteppedEngine

    @initialize(
        sequences=st.integers(1, 16),
        slots=st.integers(1, 8),
        step=st.integers(1, 30),
        cells=st.sampled_from([96, 200, 1024]),
        room=st.sampled_from([1.0, 1.7, 3.0, 100.0]),
        speculate=st.booleans(),
    )
    def begin(self, sequences: int, slots: int, step: int, cells: int, room: float, speculate: bool) -> None:
        self.lab = LABS[self.quantization]
        self.slots, self.nbytes = slots, int(room * max(ref.nbytes for ref in self.lab.refs))
        self.engine = self.lab.engine(
            sequences=sequences, slots=slots, step=step, cells=cells, nbytes=self.nbytes, speculate=speculate
        )
        self.names = list(self.lab.refs[:NAMES])
        """What each name means now."""
        self.spare = list(self.lab.refs[NAMES:])
        self.requests: dict[str, Request] = {}

    @rule(
        names=st.lists(st.integers(0, NAMES - 1), max_size=1),
        text=st.integers(0, len(TEXTS) - 1),
        length=st.integers(1, 60),
        tail=st.lists(st.integers(300, 1700), max_size=3),
        answer=st.sampled_from([1, 3, 9, 30]),
        system=st.booleans(),
    )
    def ask(self, names: list[int], text: int, length: int, tail: list[int], answer: int, system: bool) -> None:
        """On one adapter, or on the base alone; the text may be a system prompt, which is kept."""
        uses = tuple(AdapterUse(self.names[name]) for name in names)
        self._submit(uses, (*TEXTS[text][:length], *tail), answer, system=length if system and tail else 0)

    @rule(
        names=st.lists(st.integers(0, NAMES - 1), min_size=1, max_size=3, unique=True),
        weights=st.lists(st.sampled_from([1.0, 0.5, -0.5, 2.0]), min_size=3, max_size=3),
        starts=st.lists(st.sampled_from([0, 0, 5, 17]), min_size=3, max_size=3),
        length=st.integers(1, 40),
    )
    def compose(self, names: list[int], weights: list[float], starts: list[int], length: int) -> None:
        """On several, each with its weight, and from its position on."""
        uses = zip(names, weights, starts, strict=False)
        self._submit(tuple(AdapterUse(self.names[n], w, s) for n, w, s in uses), tuple(TEXTS[0][:length]), 5)

    @precondition(lambda self: self.requests)
    @rule(pick=st.integers(0, 30), more=st.integers(1, 4), name=st.integers(-1, NAMES - 1))
    def next_turn(self, pick: int, more: int, name: int) -> None:
        """A conversation goes on, at times with another adapter."""
        before = list(self.requests.values())[pick % len(self.requests)]
        said = tuple(token for token, _ in self.engine.chosen[before.id])
        prompt = (*before.prompt, *said, *TEXTS[1][:more])
        uses = before.adapters if name < 0 else (AdapterUse(self.names[name]),)
        if len(prompt) < 90:
            self._submit(uses, prompt, 4)

    @rule(pick=st.integers(0, 30))
    def cancel(self, pick: int) -> None:
        self.engine.cancel(f"r{pick}")

    @rule(name=st.integers(0, NAMES - 1))
    def replace_adapter(self, name: int) -> None:
        """The name gets another content; who runs keeps the one it began with."""
        self.spare.append(self.names[name])
        self.names[name] = self.spare.pop(0)

    @precondition(lambda self: self.engine.loads.jobs)
    @rule()
    def read_prefix(self) -> None:
        """KV comes back from the disk."""
        self.engine.loads.do_job()

    @precondition(lambda self: self.engine.loads.wanted)
    @rule(pick=st.integers(0, 9))
    def arrive(self, pick: int) -> None:
        wanted = self.engine.loads.wanted
        self.engine.loads.arrive(wanted[pick % len(wanted)])

    @rule(turns=st.integers(1, 6))
    def turn(self, turns: int) -> None:
        for _ in range(turns):
            self.engine.turn()
            self.engine.scheduler.check_integrity()

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        try:
            self.engine.finish(turns=3000, check=self.engine.scheduler.check_integrity)
            tally = self.lab.verify(self.engine, self.requests)
            event(f"{self.quantization}: {len(tally.flips)} ties fell the other way")
        finally:
            self.engine.end(drain=False)

    def _submit(self, uses: tuple[AdapterUse, ...], prompt: tuple[int, ...], answer: int, *, system: int = 0) -> None:
        name = f"r{len(self.requests)}"
        request = Request(name, prompt, uses, SamplingParams(max_tokens=answer), system=system)
        fits = sum(use.ref.nbytes for use in uses) <= self.nbytes and len(request.adapters) <= self.slots
        if len(self.engine.live) == self.engine.scheduler.limits.capacity or len(prompt) >= 96:
            return
        try:
            self.engine.submit(request)
        except AdapterError:
            assert not fits
        else:
            assert fits
            self.requests[request.id] = request


class Q8Machine(MixedMachine):
    quantization = "Q8_0"


class F32Machine(MixedMachine):
    quantization = "F32"


USUAL = settings(deadline=None, max_examples=8, stateful_step_count=25, suppress_health_check=[HealthCheck.too_slow])
TestQ8Machine, TestF32Machine = Q8Machine.TestCase, F32Machine.TestCase
TestQ8Machine.settings = TestF32Machine.settings = USUAL
