"""The state of one live request outside the scheduler: sampler, text, stream, times."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgelora.core.events import Failed, Finished, FinishReason, TextDelta, Timings, Usage
from edgelora.core.request import Request
from edgelora.core.tokenizer import Tokenizer
from edgelora.engine.sampling.logprobs import Logprobs, score
from edgelora.engine.sampling.sampler import Sampler
from edgelora.engine.scheduler.plan import Choice
from edgelora.engine.stream import Stream
from edgelora.text.detokenizer import Detokenizer


@dataclass(slots=True)
class Clock:
    """The times at which a request changed its state, in seconds of time.monotonic."""

    submitted: float
    loading: float = 0.0
    loaded: float = 0.0
    """Time at which the adapter was loaded. Like `loading`, 0 if the adapter was resident."""
    scheduled: float = 0.0
    first_token: float | None = None

    def timings(self, now: float) -> Timings:
        load, first = self.loaded - self.loading, self.first_token or now
        queued = self.scheduled - self.submitted - load
        return Timings(queued=queued, load=load, prefill=first - self.scheduled, decode=now - first)


@dataclass(slots=True)
class RequestState:
    request: Request
    stream: Stream
    sampler: Sampler
    clock: Clock
    answer: Detokenizer = field(init=False)
    logprobs: Logprobs = field(default_factory=Logprobs)

    def __post_init__(self) -> None:
        sampling = self.request.sampling
        self.answer = Detokenizer(sampling.stop, include_stop=sampling.include_stop)

    def choose(self, logits: NDArray[np.float32], draft: tuple[int, ...], tokenizer: Tokenizer) -> tuple[Choice, ...]:
        """Choose the next tokens and send their text to the stream. `logits` has shape [1 + draft, vocab].

        One token is chosen from the first row, and one from each next row as long as the previous choice equals the
        drafted token. The sampler and the reader thus see exactly what they would without a draft. Raises BackendError
        for logits from which no token can be chosen.
        """
        choices: list[Choice] = []
        for row, drafted in zip(logits, (*draft, None), strict=True):
            choices.append(self._choose(row, tokenizer))
            if choices[-1].stop or choices[-1].token != drafted:
                break
        return tuple(choices)

    def _choose(self, logits: NDArray[np.float32], tokenizer: Tokenizer) -> Choice:
        token, sampling = self.sampler.choose(logits), self.request.sampling
        last = token in sampling.stop_token_ids
        if token in tokenizer.end_ids or (last and not sampling.include_stop):
            return Choice(token, stop=True)
        start = self.answer.read
        text = self.answer.feed(tokenizer.piece(token), may_stop=self.sampler.may_stop)
        self._note(logits, token, start=start, tokenizer=tokenizer)
        self._show(text, last=self.answer.stopped)
        return Choice(token, stop=last or self.answer.stopped or self.sampler.complete)

    def _note(self, logits: NDArray[np.float32], token: int, *, start: int, tokenizer: Tokenizer) -> None:
        count = self.request.sampling.logprobs
        if count is not None:
            scored = score(logits, token, count=count, piece=tokenizer.piece, start=start)
            self.logprobs.add(scored, end=self.answer.touched)

    def finish(self, reason: FinishReason, *, usage: Usage, now: float) -> None:
        """Send the rest of the answer and its end to the stream."""
        self._show(self.answer.finish(), last=True)
        self.stream.put(Finished(reason, usage, self.clock.timings(now)))

    def fail(self, error: Exception) -> None:
        self.stream.put(Failed(error))

    def _show(self, text: str, *, last: bool) -> None:
        shown = self.answer.shown
        tokens = self.logprobs.take_last(shown) if last else self.logprobs.take(shown)
        if text or tokens:
            self.stream.put(TextDelta(text, tokens))
