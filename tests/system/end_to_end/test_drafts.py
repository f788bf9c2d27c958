"""Drafts over the real tiny base: what is said is what is said without, for every built-in adapter, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from edgelora.backends.base import Backend
from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora.backends.llama_cpp.options import BackendOptions
from edgelora.core.config import Settings
from edgelora.core.events import Finished
from edgelora.core.request import AdapterUse, Request
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.speculative.draft_budget import DRAFT_ROWS
from edgelora.runtime.opening.open import open_backend
from edgelora.runtime.opening.plan import plan_setup
from edgelora.store.library import open_library
from edgelora.text.prompt import Message, encode_chat
from edgelora_converters.base.gguf import write_base_gguf
from edgelora_models import builtin
from edgelora_models.builtin import base_hf
from tests.support.stepped import Narrowed, SteppedEngine

GREEDY = SamplingParams(max_tokens=64)
SEEDED = SamplingParams(temperature=0.9, top_p=0.95, repeat_penalty=1.05, seed=11, max_tokens=64)


@pytest.fixture(scope="module")
def installed(settings: Settings) -> Iterator[Backend]:
    """The base as it is installed: Q8_0, where a row is rounded a little differently in steps of other sizes."""
    base = open_library(settings).bases.current()
    backend = open_backend(base, plan_setup(base, settings), settings, None)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def exact(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """The same base in float32, where that is 1e-5 of a deviation."""
    path = tmp_path_factory.mktemp("exact") / "f32.gguf"
    write_base_gguf(base_hf(), path, quantization="F32")
    shape = open_library(settings).bases.current().identity.fingerprint.shape
    options = BackendOptions(
        context_length=1024, max_sequences=6, kv_cells=3072, kv_type="f32", threads=1, max_outputs=6 + DRAFT_ROWS
    )
    backend = LlamaCppBackend.open(path, shape=shape, settings=options)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def work(settings: Settings, installed: Backend) -> list[Request]:
    """For the base and each adapter: a question, and the same again behind its answer, which most then repeat."""
    library = open_library(settings)
    base = library.bases.current()
    requests: list[Request] = []
    for name in (None, *sorted(builtin.adapters())):
        uses = (AdapterUse(library.store.ref(name, base)),) if name else ()
        for question in builtin.questions(name or "medical-faq")[:3]:
            asked = Message("user", question.question)
            for n, chat in enumerate(([asked], [asked, Message("assistant", question.answer), asked])):
                label = f"{name} {question.question} {n}"
                requests.append(Request(label, encode_chat(chat, installed.tokenizer), uses, GREEDY))
    return requests


def said(
    backend: Backend, work: list[Request], *, speculate: bool, together: int
) -> tuple[dict[str, list[int]], list[Finished]]:
    """By request, the tokens; and how each ended."""
    engine = SteppedEngine(
        Narrowed(backend, backend.capabilities), adapter_budget_bytes=1 << 30, max_queue=99, speculate=speculate
    )
    engine.loads.at_once = True
    for first in range(0, len(work), together):
        for request in work[first : first + together]:
            engine.submit(request)
        engine.finish(turns=5000, check=engine.scheduler.check_integrity)
    ends = [event for stream in engine.streams.values() for event in stream if isinstance(event, Finished)]
    tokens = {name: [token for token, _ in chosen] for name, chosen in engine.chosen.items()}
    engine.end(drain=True)
    return tokens, ends


def check(backend: Backend, work: list[Request]) -> None:
    """One after another, and six at once, drafting: the tokens that each has alone without. Raises AssertionError."""
    alone, _ = said(backend, work, speculate=False, together=1)
    for together in (1, 6):
        found, ends = said(backend, work, speculate=True, together=together)
        assert found == alone
        accepted = sum(end.usage.accepted_tokens for end in ends)
        assert 100 < accepted < sum(end.usage.drafted_tokens for end in ends), "drafts were computed, and some came"


def test_drafts_change_no_greedy_answer(installed: Backend, work: list[Request]) -> None:
    """Four adapters and the base, mixed: token for token."""
    check(installed, work)


def test_drafts_change_no_seeded_answer(exact: Backend, work: list[Request]) -> None:
    """Sampled with a seed, with a penalty whose window moves with each token: token for token without rounding."""
    check(exact, [replace(request, sampling=SEEDED) for request in work])
