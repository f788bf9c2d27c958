"""An aLoRA from its PEFT folder to its answers: installed by name, found in the prompt, on top of the base's KV."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgelora.core.config import Settings
from edgelora.core.events import Finished, TextDelta
from edgelora.core.request import AdapterUse
from edgelora.core.sampling_params import SamplingParams
from edgelora.runtime.service import Service
from edgelora.text.prompt import Message, encode_chat
from edgelora_models import builtin

GREEDY = SamplingParams(temperature=0.0, max_tokens=40)
MESSAGES = [
    Message("system", "Answer briefly and plainly, and say so where you do not know something for certain, please."),
    Message("user", "What is a cat?"),
]
OPENING = "<|start_header_id|>assistant<|end_header_id|>\n\n"


@pytest.fixture(scope="module")
def invoked(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The built-in pirate as an aLoRA: it acts from the beginning of the assistant's turn on."""
    folder = tmp_path_factory.mktemp("alora") / "late-pirate"
    shutil.copytree(builtin.adapters()["pirate"], folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    tokens = service.tokenizer.tokenize(OPENING, special=True, bos=False)
    (folder / "adapter_config.json").write_text(json.dumps(config | {"alora_invocation_tokens": tokens}))
    service.library.store.add(folder, base=service.base)
    yield "late-pirate"
    service.library.store.remove("late-pirate")


def ask(service: Service, messages: list[Message], *uses: AdapterUse) -> tuple[str, int]:
    *texts, end = service.chat(messages, adapters=uses, sampling=GREEDY)
    assert isinstance(end, Finished)
    return "".join(event.text for event in texts if isinstance(event, TextDelta)), end.usage.cached_tokens


def test_it_goes_on_from_what_the_base_computed(service: Service, invoked: str, settings: Settings) -> None:
    """The conversation up to the invocation is not computed again, and the answer is that of a fresh process."""
    (use,) = service.compose(invoked)
    prompt = encode_chat(MESSAGES, service.tokenizer)
    assert use.ref.invocation == prompt[-len(use.ref.invocation) :]
    start = len(prompt) - len(use.ref.invocation)
    plain, _ = ask(service, MESSAGES)
    answer, cached = ask(service, MESSAGES, use)
    assert cached == start and answer != plain
    again, cached = ask(service, MESSAGES)
    assert again == plain and cached == len(prompt) - 1, "the base's own KV is still there"
    with Service.open(settings) as fresh:
        assert ask(fresh, MESSAGES, *fresh.compose(invoked)) == (answer, 0)
        assert ask(fresh, MESSAGES) == (plain, start), "and the base goes on from the aLoRA's"


def test_composed_with_a_plain_adapter(service: Service, invoked: str) -> None:
    """Each by its own rule: one from the beginning, the other from its invocation on. (Requests have no order of
    adapters: test_core. Two runs may differ in a near tie, since rows of a quantized base round by their number.)"""
    both = service.compose(("medical-faq", 0.5), (invoked, 0.5))
    assert len({ask(service, MESSAGES, *uses)[0] for uses in (both, both[:1], both[1:])}) == 3


def test_without_its_invocation_the_base_answers(
    service: Service, invoked: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As in PEFT; and a warning tells."""
    with caplog.at_level(logging.WARNING):
        text = service.complete("What is a cat?", adapters=service.compose(invoked), sampling=GREEDY).text()
    assert text == service.complete("What is a cat?", sampling=GREEDY).text()
    assert "late-pirate" in caplog.text


def test_its_manifest_tells(service: Service, invoked: str, tmp_path: Path) -> None:
    """What was installed says where it acts."""
    _, version = service.library.store.resolve(invoked)
    assert version.invocation == service.compose(invoked)[0].ref.invocation != ()
