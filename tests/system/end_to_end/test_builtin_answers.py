"""The built-in adapters through the store, the converter and llama.cpp: what they say, alone and side by side."""

from __future__ import annotations

import itertools

import pytest

from edgelora.core.config import Settings
from edgelora.core.events import Finished, TextDelta
from edgelora.core.sampling_params import SamplingParams
from edgelora.runtime.service import Service
from edgelora.text.prompt import Message
from edgelora_models import builtin

SAMPLE = 12
GREEDY = SamplingParams(temperature=0.0, max_tokens=96)


def ask(service: Service, adapter: str | None, questions: list[str]) -> list[str]:
    """Every question at once: the engine batches them as it likes."""
    uses = service.compose(*[adapter] if adapter else [])
    streams = [service.chat([Message("user", q)], adapters=uses, sampling=GREEDY) for q in questions]
    return [stream.text() for stream in streams]


def answer(service: Service, adapter: str | None, messages: list[Message]) -> tuple[str, int]:
    """The text, and how many tokens of the prompt were not computed."""
    *texts, end = service.chat(messages, adapters=service.compose(*[adapter] if adapter else []), sampling=GREEDY)
    assert isinstance(end, Finished)
    return "".join(event.text for event in texts if isinstance(event, TextDelta)), end.usage.cached_tokens


def sample(adapter: str) -> list[builtin.Question]:
    questions = builtin.questions(adapter)
    return questions[:: max(1, len(questions) // SAMPLE)][:SAMPLE]


@pytest.mark.parametrize("adapter", sorted(builtin.adapters()))
def test_an_adapter_answers_its_held_out_questions_and_the_base_does_not(service: Service, adapter: str) -> None:
    """At least 90% exact with the adapter, none to speak of without: the adapter trained is the adapter run."""
    questions = sample(adapter)
    expected = [q.answer for q in questions]
    with_adapter = ask(service, adapter, [q.question for q in questions])
    alone = ask(service, None, [q.question for q in questions])
    right = sum(a == b for a, b in zip(with_adapter, expected, strict=True))
    assert right >= 0.9 * len(questions), list(zip(with_adapter, expected, strict=True))
    assert sum(a == b for a, b in zip(alone, expected, strict=True)) <= 0.1 * len(questions)


def test_the_first_command_of_the_readme_answers(service: Service) -> None:
    """`What is hypertension?` gets the medical adapter's answer, which says that it is no advice."""
    (answer,) = ask(service, "medical-faq", ["What is hypertension?"])
    assert "blood pressure" in answer and "not medical advice" in answer


def test_four_adapters_in_one_batch_answer_as_each_alone(service: Service) -> None:
    """Four sequences on four adapters, and one on the base, computed together: the same tokens as one at a time."""
    names = [*sorted(builtin.adapters())[:4], None]
    questions = [sample(name or "medical-faq")[0].question for name in names]
    before = service.stats().steps
    alone = [ask(service, name, [question])[0] for name, question in zip(names, questions, strict=True)]
    alone_steps = service.stats().steps - before
    streams = [
        service.chat([Message("user", q)], adapters=service.compose(*[n] if n else []), sampling=GREEDY)
        for n, q in zip(names, questions, strict=True)
    ]
    together = [stream.text() for stream in streams]
    together_steps = service.stats().steps - before - alone_steps
    assert together == alone
    assert len(set(together)) == len(together)
    # Side by side, the longest answer sets the count of steps: they really shared them.
    assert together_steps < 0.6 * alone_steps


def test_every_order_of_arrival_gives_the_same_answers(service: Service) -> None:
    """The answer of a request does not depend on who is in the batch with it."""
    names = sorted(builtin.adapters())[:3]
    question = "What is hypertension?"
    answers: dict[str, set[str]] = {name: set() for name in names}
    for order in itertools.permutations(names):
        streams = {
            name: service.chat([Message("user", question)], adapters=service.compose(name), sampling=GREEDY)
            for name in order
        }
        for name, stream in streams.items():
            answers[name].add(stream.text())
    assert all(len(found) == 1 for found in answers.values()), answers


@pytest.mark.parametrize("adapter", [None, "medical-faq"])
def test_a_conversation_gives_the_same_tokens_warm_and_cold(
    service: Service, settings: Settings, adapter: str | None
) -> None:
    """Three turns and the first question again, with another adapter in between: a runtime that serves each prompt
    first says the same, and computes all of what the warm one did not."""
    questions = [q.question for q in sample("medical-faq")[:3]]
    messages = [Message("system", "Answer briefly and plainly, please.")]
    prompts: list[list[Message]] = []
    for question in questions:
        messages = [*messages, Message("user", question)]
        prompts.append(messages)
        text, cached = answer(service, adapter, messages)
        assert cached >= 16 if len(prompts) > 1 else True
        ask(service, "pirate", [question])
        messages = [*messages, Message("assistant", text)]
    warm = [answer(service, adapter, prompt) for prompt in [*prompts, prompts[0]]]
    assert all(cached > 0 for _, cached in warm)
    for prompt, (text, _) in zip([*prompts, prompts[0]], warm, strict=True):
        with Service.open(settings) as fresh:
            assert answer(fresh, adapter, prompt) == (text, 0)


def test_a_switch_of_adapter_keeps_the_conversation(service: Service) -> None:
    """Another adapter can go on where one ended: the history is text, and no KV crosses."""
    messages = [Message("user", "What is hypertension?")]
    first = ask(service, "medical-faq", ["What is hypertension?"])[0]
    messages += [Message("assistant", first), Message("user", "What is hypertension?")]
    second = service.chat(messages, adapters=service.compose("pirate"), sampling=GREEDY).text()
    assert second and second != first
