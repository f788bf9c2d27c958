"""The scheduler without a model: each rule alone here, all of them together in test_scheduler_machine.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from edgelora.backends.base import Applied, Capabilities, Chunk
from edgelora.core.errors import AdapterError, Busy, ContextTooLong, UsageError
from edgelora.core.events import FinishReason, Usage
from edgelora.core.request import AdapterRef, AdapterUse, Request
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.adapters.pool import Pool
from edgelora.engine.cost_model import step_costs
from edgelora.engine.cost_model.prefill_chunks import ALONE_TOKENS
from edgelora.engine.scheduler.adapter_leases import PATIENCE
from edgelora.engine.scheduler.plan import Choice, Cut, Ended, Plan, Start
from edgelora.engine.scheduler.policy import GROWTH_CELLS
from edgelora.engine.scheduler.scheduler import Scheduler
from edgelora.engine.scheduler.states import LIVE, TRANSITIONS, IllegalMove, Move, State, after
from tests.support.uses import applied, uses

ABLE = Capabilities(
    adapter_format="gguf",
    mixed_adapters=True,
    max_slots=2,
    max_sequences=3,
    max_step_tokens=64,
    context_length=200,
    kv_cells=400,
    max_outputs=3,
)


def ref(name: str, nbytes: int = 10) -> AdapterRef:
    return AdapterRef(name=name, version=name, path=Path(name), nbytes=nbytes)


def request(
    name: str,
    adapter: AdapterRef | None = None,
    *,
    prompt: int = 4,
    begins: int = 0,
    max_tokens: int | None = None,
    client: str = "",
) -> Request:
    """Prompts are the beginning of one another, unless they begin with another token."""
    tokens = tuple(range(begins, begins + prompt))
    return Request(name, tokens, uses(adapter), SamplingParams(max_tokens=max_tokens), client)


def scheduler(
    able: Capabilities = ABLE,
    *,
    max_queue: int = 50,
    budget: int = 100,
    step: Callable[[int], float] = lambda rows: 0.01,
) -> Scheduler:
    """`step`: the seconds that steps of so many rows are known to take; any step the same where not given."""
    s = Scheduler(able, Pool(budget, able.max_slots), max_queue=max_queue)
    for rows in step_costs.sizes(able.max_step_tokens) * step_costs.WINDOW:
        s.costs.observe(rows, step(rows))
    return s


def in_proportion(rows: int) -> float:
    """Where arithmetic is all: four rows take four times one."""
    return 0.1 * rows


def turn(s: Scheduler, *, stop: Callable[[str], bool] = lambda _: False) -> tuple[Plan, tuple[Ended, ...]]:
    """One round as the engine does it, loads done at once. Each token chosen is 7; `stop(id)` ends a request."""
    for load in s.admit().loads:
        s.loaded(load.ref)
    plan = s.plan()
    assert plan == s.plan()
    s.begin(plan)
    s.check_integrity()
    choices = {r.request_id: (Choice(7, stop(r.request_id)),) for r in plan.rows if r.chunk.logits}
    ended = s.apply(plan, choices)
    s.check_integrity()
    return plan, ended


def sizes(plan: Plan) -> dict[str, int]:
    return {row.request_id: len(row.chunk.tokens) for row in plan.rows}


def chunk_of(plan: Plan, request_id: str) -> Chunk:
    return next(row.chunk for row in plan.rows if row.request_id == request_id)


def test_every_move_is_legal_or_raises() -> None:
    """The table is the whole truth: a pair in it gives its state, any other raises."""
    for state, move in product(State, Move):
        if (state, move) in TRANSITIONS:
            assert after(state, move) is TRANSITIONS[state, move]
        else:
            with pytest.raises(IllegalMove):
                after(state, move)


def test_cancel_is_legal_in_every_live_state_and_ends_are_ends() -> None:
    """Any live state may be cancelled; nothing leads out of an end."""
    assert {state for state, move in TRANSITIONS if move is Move.CANCELLED} == LIVE
    assert {state for state, _ in TRANSITIONS} == LIVE


def test_one_request_from_end_to_end() -> None:
    """Prompt, then one token a step, position after position, until max_tokens."""
    s = scheduler()
    s.submit(request("a", prompt=4, max_tokens=3))
    first, _ = turn(s)
    assert first.rows[0].chunk == Chunk(sequence=0, position=0, tokens=(0, 1, 2, 3), adapters=(), logits=True)
    second, _ = turn(s)
    assert second.rows[0].chunk == Chunk(sequence=0, position=4, tokens=(7,), adapters=(), logits=True)
    _, ended = turn(s)
    assert ended == (Ended("a", FinishReason.LENGTH, Usage(4, 3)),)
    assert s.admit().clears == () and not s.plan().rows and len(s) == 0


def test_stop_ends_and_counts_the_end_token() -> None:
    """The end token was computed, so it is a completion token."""
    s = scheduler()
    s.submit(request("a"))
    _, ended = turn(s, stop=lambda _: True)
    assert ended == (Ended("a", FinishReason.STOP, Usage(4, 1)),)


def test_the_context_ends_an_answer_without_max_tokens() -> None:
    """Prompt and answer together fill the context, never more; the KV may be the smaller limit."""
    for able in (replace(ABLE, context_length=10), replace(ABLE, kv_cells=10)):
        s = scheduler(able)
        s.submit(request("a", prompt=4))
        usages = [e.usage for _ in range(6) for e in turn(s)[1]]
        assert usages == [Usage(4, 6)]


def test_refused_requests_change_nothing() -> None:
    """Too long, empty, too large an adapter, an id in use, a full queue: an error each, and the same state after."""
    s = scheduler(max_queue=1)
    for n in range(3):
        s.submit(request(f"r{n}"))
    cases: list[tuple[Request, type[UsageError | AdapterError], str]] = [
        (request("x", prompt=200), ContextTooLong, "context_length_exceeded"),
        (request("x", prompt=0), UsageError, "empty_prompt"),
        (request("x", ref("big", 101)), AdapterError, "adapter_too_large"),
        (request("r1"), UsageError, "duplicate_id"),
    ]
    for bad, error, code in cases:
        with pytest.raises(error) as caught:
            s.submit(bad)
        assert caught.value.code == code
    s.submit(request("r3"))
    with pytest.raises(Busy) as busy:
        s.submit(request("x"))
    assert busy.value.code == "queue_full"
    assert s.live_ids() == ("r0", "r1", "r2", "r3")
    s.cancel("r0")
    s.submit(request("x"))


def test_a_long_prompt_is_computed_in_pieces() -> None:
    """Alone it may fill each step; logits are wanted after its last piece only."""
    s = scheduler()
    s.submit(request("a", prompt=150))
    chunks = [turn(s)[0].rows[0].chunk for _ in range(3)]
    assert [(c.position, len(c.tokens), c.logits) for c in chunks] == [(0, 64, False), (64, 64, False), (128, 22, True)]


def test_a_long_prompt_does_not_stall_the_others() -> None:
    """Beside decoding sequences a prompt gets what a step's cost allows, and they a token in every one."""
    s = scheduler(step=in_proportion)
    s.submit(request("a"))
    s.submit(request("b"))
    turn(s)
    turn(s)
    s.submit(request("c", prompt=30, begins=50))
    for _ in range(10):
        assert sizes(turn(s)[0]) == {"a": 1, "b": 1, "c": 2}


def test_a_prompt_alone_is_bounded_by_the_clock() -> None:
    """No step of prompts is so long that a cancel or a newcomer must wait for it; nothing known, it begins small."""
    assert sizes(turn(with_prompt(scheduler(step=lambda rows: rows / 40)))[0]) == {"a": 40}
    assert sizes(turn(with_prompt(scheduler(step=in_proportion)))[0]) == {"a": ALONE_TOKENS}
    unknown = Scheduler(ABLE, Pool(100, 2), max_queue=50)
    assert sizes(turn(with_prompt(unknown))[0]) == {"a": ALONE_TOKENS}


def with_prompt(s: Scheduler) -> Scheduler:
    s.submit(request("a", prompt=150))
    return s


def test_the_prompts_of_an_adapter_share_a_step_oldest_first() -> None:
    """What the first leaves of the step the next one gets."""
    s = scheduler()
    for name, length, begins in (("a", 40, 0), ("b", 40, 1), ("c", 4, 2)):
        s.submit(request(name, prompt=length, begins=begins))
    assert sizes(turn(s)[0]) == {"a": 40, "b": 24}
    assert sizes(turn(s)[0]) == {"a": 1, "b": 16, "c": 4}


def test_prompts_are_computed_by_turns_between_clients() -> None:
    """One client's three long prompts leave the other's every second piece, and a newcomer comes after both."""
    s = scheduler(replace(ABLE, max_sequences=5, max_step_tokens=10, kv_cells=900))
    for n, name in enumerate(("a1", "a2", "a3")):
        s.submit(request(name, prompt=100, begins=n, client="a"))
    s.submit(request("b", prompt=100, begins=3, client="b"))
    assert [tuple(sizes(turn(s)[0])) for _ in range(4)] == [("a1",), ("b",)] * 2
    s.submit(request("c", prompt=100, begins=4, client="c"))
    assert [tuple(sizes(turn(s)[0])) for _ in range(6)] == [("a1",), ("b",), ("c",)] * 2


def test_prompts_of_a_client_are_computed_by_turns_between_adapters() -> None:
    """Three long prompts for one adapter leave another adapter's every second piece."""
    s = scheduler(replace(ABLE, max_sequences=4, max_step_tokens=10, kv_cells=900))
    for name in ("a1", "a2", "a3"):
        s.submit(request(name, ref("x"), prompt=100))
    s.submit(request("b", ref("y"), prompt=100))
    assert [tuple(sizes(turn(s)[0])) for _ in range(6)] == [("a1",), ("b",)] * 3


def test_more_decoding_sequences_than_a_step_holds_take_turns() -> None:
    """Nobody is left out when one step cannot hold all."""
    s = scheduler(replace(ABLE, max_step_tokens=2))
    for name in "abc":
        s.submit(request(name, prompt=1))
    turn(s)
    turn(s)
    turn(s)
    served = [name for _ in range(6) for name in sizes(turn(s)[0])]
    assert {served.count(name) for name in "abc"} == {4}


def test_a_place_is_given_again() -> None:
    """Three places: the fourth request gets the first one free, after its KV was cut."""
    s = scheduler()
    for name in "abc":
        s.submit(request(name))
    turn(s)
    s.submit(request("d", ref("x")))
    turn(s, stop=lambda name: name == "b")
    assert s.state("d") is State.READY
    plan, _ = turn(s)
    assert plan.given_up == (1,) and plan.moves == (Cut(1, 0),) and plan.starts == (Start("d", 1, 0),)
    assert chunk_of(plan, "d").sequence == 1 and chunk_of(plan, "d").position == 0


def test_places_are_given_by_turns_between_clients() -> None:
    """Who queued ten waits for who came later with one; of one client the adapters take turns, then age decides."""
    s = scheduler(replace(ABLE, max_sequences=1))
    for n in range(4):
        s.submit(request(f"x{n}", ref("x"), client="many", max_tokens=1))
    s.submit(request("y", ref("y"), client="many", max_tokens=1))
    s.submit(request("few0", client="few", max_tokens=1))
    s.submit(request("few1", client="few", max_tokens=1))
    started = [start.request_id for _ in range(7) for start in turn(s)[0].starts]
    assert started == ["x0", "few0", "y", "few1", "x1", "x2", "x3"]


def test_one_that_was_sent_back_is_before_all_who_had_no_place() -> None:
    """Its turn was had, so it costs no second one, whatever came meanwhile."""
    s = scheduler(replace(ABLE, kv_cells=60, context_length=60))
    s.submit(request("a", prompt=20, max_tokens=30, client="a"))
    s.submit(request("b", prompt=10, max_tokens=40, client="b"))
    plan, _ = turn(s)
    s.submit(request("new", prompt=2, client="new", max_tokens=1))
    while not plan.preempted:
        plan, _ = turn(s)
    assert plan.preempted == ("b",)
    starts: list[str] = []
    while len(s):
        starts += [start.request_id for start in turn(s)[0].starts]
    assert starts == ["b", "new"]


def test_an_id_is_not_given_out_before_it_is_cleared() -> None:
    """Between the failure of its request and the next admit, an id is free but its KV is still there."""
    s = scheduler(replace(ABLE, max_sequences=1))
    s.submit(request("a"))
    turn(s)
    s.submit(request("b"))
    s.admit()
    s.fail("a")
    assert not s.plan().rows
    assert s.admit().clears == (0,)
    assert sizes(s.plan()) == {"b": 4}


def test_an_absent_adapter_is_loaded_once_for_all_who_want_it() -> None:
    """The slot is reserved at once; the first asks for the load, all wait, all become ready together."""
    s = scheduler()
    s.submit(request("a", ref("x")))
    s.submit(request("b", ref("x")))
    s.submit(request("c"))
    admission = s.admit()
    assert [(load.ref.name, load.slot) for load in admission.loads] == [("x", 0)]
    assert admission.loading == ("a", "b") and s.state("c") is State.READY
    assert sizes(s.plan()) == {"c": 4}
    assert s.loaded(ref("x")) == ("a", "b")
    assert {r.chunk.adapters for r in s.plan().rows} == {applied(0), ()}
    s.submit(request("d", ref("x")))
    assert s.admit().loads == () and s.state("d") is State.READY
    s.check_integrity()


def test_a_failed_load_fails_only_its_requests() -> None:
    """The slot is free again, others go on, and a later request tries anew."""
    s = scheduler()
    for name, adapter in (("a", ref("x")), ("b", ref("y")), ("c", ref("x"))):
        s.submit(request(name, adapter))
    s.admit()
    assert s.load_failed(ref("x")) == ("a", "c")
    assert s.live_ids() == ("b",) and s.pool.slot(ref("x")) is None
    s.submit(request("d", ref("x")))
    assert len(s.admit().loads) == 1
    s.check_integrity()


def several(name: str, *names: str, prompt: int = 4, starts: dict[str, int] | None = None) -> Request:
    acting = tuple(AdapterUse(ref(adapter), 0.5, (starts or {}).get(adapter, 0)) for adapter in names)
    return Request(name, tuple(range(prompt)), acting, SamplingParams())


def leases(s: Scheduler) -> dict[str, int]:
    return {entry.ref.name: entry.leases for entry in s.pool.snapshot() if entry.leases}


def test_a_request_waits_until_all_its_adapters_are_there() -> None:
    """One load of two makes nobody ready who wants both; what is ready has each in its chunk, weight and start too."""
    s = scheduler()
    s.submit(several("both", "x", "y", starts={"y": 2}))
    s.submit(request("one", ref("x")))
    assert [load.ref.name for load in s.admit().loads] == ["x", "y"]
    assert s.loaded(ref("x")) == ("one",) and s.state("both") is State.LOADING
    assert s.loaded(ref("y")) == ("both",)
    assert chunk_of(s.plan(), "both").adapters == (Applied(0, 0.5), Applied(1, 0.5, start=2))
    assert leases(s) == {"x": 2, "y": 1}
    s.check_integrity()


def test_all_or_none() -> None:
    """Two requests that each want two adapters never hold one and wait for the other: the second holds nothing."""
    s = scheduler(max_queue=5)
    s.submit(several("first", "x", "y"))
    s.submit(several("second", "z", "y"))
    s.submit(several("third", "y", "x"))
    turn(s)
    assert s.state("second") is State.WAITING and leases(s) == {"x": 2, "y": 2}
    turn(s, stop=lambda name: True)
    turn(s, stop=lambda name: True)
    assert s.state("second") is None and s.live_ids() == ()
    assert leases(s) == {}


def test_room_for_one_never_evicts_the_other() -> None:
    """A set that is half in memory: what is missing takes the place of what is not in the set."""
    s = scheduler()
    for name in "xy":
        s.submit(request(name, ref(name)))
    turn(s, stop=lambda name: True)  # x is the least recently used, and wanted
    s.submit(several("a", "x", "z"))
    admission = s.admit()
    assert admission.detach == (1,) and [(load.ref.name, load.slot) for load in admission.loads] == [("z", 1)]
    s.check_integrity()


def test_one_failed_load_gives_back_the_others() -> None:
    """The request fails with it, and nothing it held is held any more: what has arrived, and what is on its way."""
    s = scheduler()
    s.submit(several("a", "x", "y"))
    s.admit()
    assert s.load_failed(ref("y")) == ("a",) and leases(s) == {}
    s.check_integrity()
    assert s.loaded(ref("x")) == () and s.pool.resident(ref("x"))
    s.submit(several("b", "x", "y"))
    assert [load.ref.name for load in s.admit().loads] == ["y"]
    assert s.load_failed(ref("y")) == ("b",) and leases(s) == {}
    s.check_integrity()


def test_a_set_that_never_fits_is_refused() -> None:
    """By slots or by bytes, at once and not after a wait."""
    for s, code in ((scheduler(), "too_many_adapters"), (scheduler(budget=25), "adapter_too_large")):
        with pytest.raises(AdapterError) as caught:
            s.check(several("a", "x", "y", "z"))
        assert caught.value.code == code


def test_a_piece_ends_where_an_adapter_begins_if_steps_cannot_mix() -> None:
    """And sequences are grouped by what acts now: before its start an adapter's prompt goes with the base's."""
    s = scheduler(replace(ABLE, mixed_adapters=False))
    s.submit(several("gated", "x", prompt=10, starts={"x": 6}))
    s.submit(request("base", prompt=5))
    assert sizes(turn(s)[0]) == {"gated": 6, "base": 5}
    pieces = [sizes(turn(s)[0]) for _ in range(4)]
    assert {"gated": 4} in pieces and {"base": 1} in pieces and all(len(piece) == 1 for piece in pieces)


def test_an_alora_goes_on_from_the_bases_kv() -> None:
    """Up to where it begins, and the base from what it left, and another from that."""
    s = scheduler()
    for name, asked, reused in (
        ("base", request("base", prompt=40), 0),
        ("one", several("one", "x", prompt=44, starts={"x": 30}), 30),
        ("other", several("other", "y", prompt=44, starts={"y": 35}), 35),
        ("base again", request("base again", prompt=60), 40),
    ):
        s.submit(asked)
        plan, ended = turn(s, stop=lambda _: True)
        assert [start.reused for start in plan.starts] == [reused], name
        assert ended[0].usage.cached_tokens == reused and sizes(plan)[name] == len(asked.prompt) - reused


@pytest.mark.parametrize("state", sorted(LIVE))
def test_cancel_in_every_state(state: State) -> None:
    """The request is gone, everything it held is back, and cancelling again is nothing."""
    s = scheduler()
    s.submit(request("a", ref("x"), prompt=100))
    if state is not State.WAITING:
        s.admit()
    if state not in (State.WAITING, State.LOADING):
        s.loaded(ref("x"))
    for _ in range({State.PREFILL: 1, State.DECODE: 2}.get(state, 0)):
        turn(s)
    assert s.state("a") is state
    assert s.cancel("a") is True
    assert s.state("a") is None and s.cancel("a") is False and s.cancel("unknown") is False
    s.check_integrity()
    assert all(entry.leases == 0 for entry in s.pool.snapshot())
    assert s.admit().clears == ()


def test_a_load_nobody_waits_for_any_more() -> None:
    """Cancelled while loading: the adapter arrives all the same and is simply there, or its slot is free again."""
    for arrive in (Scheduler.loaded, Scheduler.load_failed):
        s = scheduler()
        s.submit(request("a", ref("x")))
        s.admit()
        s.cancel("a")
        assert arrive(s, ref("x")) == ()
        s.check_integrity()


def test_an_unused_adapter_makes_room() -> None:
    """The evicted slot is named, to be detached; a held one never is."""
    s = scheduler()
    s.submit(request("a", ref("x")))
    s.submit(request("b", ref("y")))
    turn(s, stop=lambda name: name == "a")
    s.submit(request("c", ref("z")))
    admission = s.admit()
    assert admission.clears == () and admission.detach == (0,)
    assert [load.slot for load in admission.loads] == [0]
    s.submit(request("d", ref("w")))
    assert s.admit().detach == () and s.state("d") is State.WAITING


def test_one_that_waits_for_room_is_passed_only_so_often() -> None:
    """The base passes freely; adapters' requests do PATIENCE times, then they wait behind it."""
    s = scheduler(max_queue=100)
    s.submit(request("a", ref("x")))
    s.submit(request("b", ref("y")))
    turn(s)
    s.submit(request("blocked", ref("z")))
    for n in range(PATIENCE + 2):
        s.submit(request(f"p{n}", ref("x")))
    s.submit(request("base"))
    s.admit()
    assert [s.state(f"p{n}") for n in (0, PATIENCE - 1)] == [State.READY] * 2
    assert [s.state(f"p{n}") for n in (PATIENCE, PATIENCE + 1)] == [State.WAITING] * 2
    assert s.state("blocked") is State.WAITING and s.state("base") is State.READY
    for name in ("a", "b", *(f"p{n}" for n in range(PATIENCE))):
        s.cancel(name)
    s.admit()
    assert s.state("blocked") is State.LOADING


def test_the_youngest_gives_way_when_cells_run_out() -> None:
    """It waits in front with all its tokens, keeps no lease, and goes on from where it was."""
    s = scheduler(replace(ABLE, kv_cells=60, context_length=60))
    s.submit(request("a", ref("x"), prompt=20, max_tokens=30))
    s.submit(request("b", ref("y"), prompt=10))
    s.submit(request("behind", ref("z")))
    plan, _ = turn(s)
    while not plan.preempted:
        plan, _ = turn(s)
    assert plan.preempted == ("b",) and plan.moves == (Cut(1, 0),)
    assert s.state("b") is State.WAITING
    assert {e.ref.name: e.leases for e in s.pool.snapshot()} == {"x": 1, "y": 0}
    s.admit()
    assert s.state("b") is State.READY and s.state("behind") is State.WAITING
    while "b" not in sizes(plan):
        plan, _ = turn(s)
    chunk = chunk_of(plan, "b")
    assert chunk.position == 0 and chunk.tokens[:10] == tuple(range(10)) and set(chunk.tokens[10:]) == {7}
    assert s.state("a") is None, "the older one was never stopped"


def test_a_newcomer_leaves_room_to_grow() -> None:
    """It starts only where each running sequence has some cells left, and nobody younger passes it."""
    s = scheduler(replace(ABLE, kv_cells=60, context_length=60))
    s.submit(request("a", prompt=30))
    turn(s)
    s.submit(request("big", prompt=60 - 31 - GROWTH_CELLS + 1))
    s.submit(request("small", prompt=1))
    assert sizes(turn(s)[0]) == {"a": 1}
    s.fail("a")
    assert sizes(turn(s)[0]) == {"big": 14, "small": 1}


def test_warm_kv_is_no_reason_to_wait_or_to_give_way() -> None:
    """Cells that warm sequences hold count as free: for who starts, and for who grows."""
    s = scheduler(replace(ABLE, kv_cells=60, context_length=60))
    for name, adapter in (("a", ref("x")), ("b", ref("y"))):
        s.submit(request(name, adapter, prompt=28, max_tokens=1))
        turn(s)
    s.submit(request("c", prompt=30))
    plan, _ = turn(s)
    assert plan.given_up == (0,) and sizes(plan) == {"c": 30}
    while s.state("c"):
        plan, _ = turn(s)
        assert not plan.preempted and sizes(plan) == {"c": 1}


def test_a_prompt_goes_on_from_what_is_warm() -> None:
    """The id is taken over and cut, the rest is computed, and the usage tells."""
    s = scheduler()
    s.submit(request("a", ref("x"), prompt=50, max_tokens=3))
    for _ in range(3):
        turn(s)
    s.submit(request("b", ref("x"), prompt=70, max_tokens=1))
    plan, ended = turn(s)
    assert plan.moves == (Cut(0, 50),) and plan.given_up == ()
    assert chunk_of(plan, "b") == Chunk(
        sequence=0, position=50, tokens=tuple(range(50, 70)), adapters=applied(0), logits=True
    )
    assert ended == (Ended("b", FinishReason.LENGTH, Usage(70, 1, 50)),)


def test_nothing_is_kept_of_a_step_that_was_not_applied() -> None:
    """Cancelled between begin and apply: the KV holds more than is known, so it is cleared."""
    s = scheduler()
    s.submit(request("a"))
    turn(s)
    s.begin(s.plan())
    s.cancel("a")
    s.check_integrity()
    assert s.admit().clears == (0,)


def test_what_a_request_computed_itself_was_not_cached() -> None:
    """Sent back, it goes on from its neighbour's KV; but it had computed that part of its prompt before."""
    s = scheduler(replace(ABLE, kv_cells=60, context_length=60))
    s.submit(request("a", ref("x"), prompt=20, max_tokens=30))
    s.submit(request("b", ref("x"), prompt=10, max_tokens=25))
    ended: list[Ended] = []
    starts: list[Start] = []
    while len(s):
        plan, now = turn(s)
        starts += plan.starts
        ended += now
    assert [start.reused for start in starts] == [0, 0, 10]
    assert {e.request_id: e.usage.cached_tokens for e in ended} == {"a": 0, "b": 0}


def test_one_adapter_a_step_where_they_cannot_mix() -> None:
    """Groups take turns, each step holds one group only, and its members run together."""
    s = scheduler(replace(ABLE, mixed_adapters=False))
    for name, adapter in (("a", ref("x")), ("b", None), ("c", ref("x"))):
        s.submit(request(name, adapter))
    served = [tuple(sizes(turn(s)[0])) for _ in range(6)]
    assert served == [("a", "c"), ("b",)] * 3


def test_newcomers_do_not_pass_a_waiting_group() -> None:
    """A stream of new groups, each ending at once, leaves the old ones their turns."""
    s = scheduler(replace(ABLE, mixed_adapters=False))
    s.submit(request("old", None))
    turns = 0
    for n in range(20):
        for side in range(2):
            s.submit(request(f"new{n}{side}", ref("xy"[side])))
        plan, _ = turn(s, stop=lambda name: name != "old")
        turns += "old" in sizes(plan)
    assert turns >= 6


def test_requests_that_arrived_together_do_not_hold_each_other_back() -> None:
    """The one that is done with its prompt first has no claim on the others; on one that comes later it has."""
    s = scheduler(replace(ABLE, kv_cells=1024), step=in_proportion)
    s.submit(request("a", prompt=3))
    turn(s)
    assert s.state("a") is State.DECODE
    s.submit(request("b", prompt=150, begins=50))  # It came while that step ran.
    together = sizes(turn(s)[0])
    assert together["a"] == 1 and together["b"] > 20
    s.submit(request("c", prompt=30, begins=400))
    while s.state("b") is State.PREFILL:
        assert "c" not in sizes(turn(s)[0])
    assert sizes(turn(s)[0])["c"] <= 4


def test_prompts_hold_back_for_decoding_of_another_group_too() -> None:
    """Without mixing, a prompt's step is added to the others' gap: all of them together keep to what one step may."""
    s = scheduler(replace(ABLE, mixed_adapters=False, max_sequences=4, kv_cells=1024), step=in_proportion)
    for name in ("a1", "a2"):
        s.submit(request(name))
    turn(s)
    turn(s)
    s.submit(request("b", ref("x"), prompt=100))
    assert sizes(turn(s)[0]) == {"a1": 1, "a2": 1}
    assert sizes(turn(s)[0]) == {"b": 2}
    s.submit(request("c", ref("y"), prompt=100))
    assert [sizes(turn(s)[0]) for _ in range(3)] == [{"a1": 1, "a2": 1}, {"b": 1}, {"c": 1}]


def test_a_failed_step_gives_everything_back() -> None:
    """Its requests end, their ids are cleared next, the others stay."""
    s = scheduler()
    s.submit(request("a", ref("x")))
    s.submit(request("b"))
    s.admit()
    plan = s.plan()
    s.begin(plan)
    assert s.fail("b") is True and s.fail("b") is False
    s.check_integrity()
    assert s.admit().clears == (0,) and s.state("a") is State.LOADING


def test_integrity_is_really_checked() -> None:
    """A lease too many, a lost id, a miscount: each is noticed."""

    def broken(spoil: Callable[[Scheduler], object]) -> Scheduler:
        s = scheduler(replace(ABLE, max_sequences=2))
        for name in "abc":
            s.submit(request(name, ref("x")))
        turn(s)
        s.submit(request("d"))
        spoil(s)
        return s

    broken(lambda _: None).check_integrity()
    for spoil in (
        lambda s: s.pool.lease(ref("x")),
        lambda s: s._allocator.give_back(1),
        lambda s: s._allocator.cached.keep(1, None, [1]),
        lambda s: s._allocator._uncleared.add(1),
        lambda s: setattr(s._allocator.cached, "cells", 1),
        lambda s: setattr(s._live["a"], "computed", 9999),
    ):
        with pytest.raises(RuntimeError):
            broken(spoil).check_integrity()
