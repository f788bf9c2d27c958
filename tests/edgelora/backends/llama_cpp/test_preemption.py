"""KV that runs out over the real tiny base: who was sent back and came again answers as if nothing had been."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgelora.backends.base import Chunk
from edgelora.backends.llama_cpp.options import BackendOptions
from edgelora.core.events import Finished
from edgelora.core.request import AdapterRef, Request
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.engine import Engine
from tests.edgelora.backends.llama_cpp.conftest import EXACT, Installed, open_backend
from tests.support.uses import uses

ANSWER = 80
SCARCE = 256
"""KV cells, the fewest that llama.cpp gives: for less than half of the tokens of all six."""
PROMPTS = (5, 12, 7, 9, 16, 6)


class Noting:
    """The real backend; knows how often a sequence began, and in how many pieces prompts came."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.tokenizer = Endless(backend.tokenizer)
        self.begun = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def step(self, chunks: Sequence[Chunk]) -> list[NDArray[np.float32] | None]:
        self.begun += sum(chunk.position == 0 for chunk in chunks)
        results: list[NDArray[np.float32] | None] = self._backend.step(chunks)
        return results


class Endless:
    """No token ends an answer, and each is written by its number."""

    end_ids: frozenset[int] = frozenset()

    def __init__(self, tokenizer: Any) -> None:
        self.size = tokenizer.size

    def piece(self, token: int) -> bytes:
        return b"%d " % token


def answers(installed: Installed, options: BackendOptions, *, together: bool) -> tuple[list[str], int]:
    """What six requests on adapters and the base answer, at once or one after the other; how many sequences began."""
    backend = Noting(open_backend(installed, options))
    engine = Engine(backend, adapter_budget_bytes=1 << 30, max_queue=9)
    paths = (None, *installed.paths)
    try:
        texts: list[str] = []
        streams = []
        for number, length in enumerate(PROMPTS):
            path = paths[number % len(paths)]
            ref = None if path is None else AdapterRef(path.stem, path.stem, path, 1)
            prompt = tuple(1 + (31 * number + 7 * n) % (backend.tokenizer.size - 1) for n in range(length))
            sampling = SamplingParams(max_tokens=ANSWER)
            streams.append(engine.submit(Request(f"r{number}", prompt, uses(ref), sampling, client=f"c{number % 2}")))
            if not together:
                texts.append(streams[-1].text())
        for stream in streams if together else []:
            events = list(stream)
            assert isinstance(events[-1], Finished) and events[-1].usage.completion_tokens == ANSWER
            texts.append("".join(event.text for event in events[:-1]))  # type: ignore[union-attr]  # all are texts
        return texts, backend.begun
    finally:
        engine.close()


@pytest.mark.parametrize("method", ["hook", "native"])
def test_a_preempted_request_answers_as_undisturbed(installed: Installed, method: str) -> None:
    """KV for hardly three of six: some begin again, with all their tokens, and no answer shows it."""
    roomy = replace(EXACT, method=method)
    expected, begun = answers(installed, roomy, together=False)
    assert begun == len(PROMPTS)
    found, begun = answers(installed, replace(roomy, kv_cells=SCARCE), together=True)
    assert found == expected
    assert begun > len(PROMPTS), "the test is about preemption"
