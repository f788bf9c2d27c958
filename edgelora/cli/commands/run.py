"""`edgelora run`: print one answer, or chat on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from edgelora.cli.support.app import App
from edgelora.cli.support.options import (
    adapter_names,
    base_option,
    context_option,
    json_option,
    machine_options,
    sampling_options,
)
from edgelora.cli.support.overrides import MachineOptions, SamplingOptions

PIPED_BYTES = 64 << 20
"""The most that is read from a pipe. No context holds more, so it is refused before a base is loaded."""

if TYPE_CHECKING:
    from edgelora.core.config import Settings
    from edgelora.core.events import Finished
    from edgelora.core.request import AdapterUse
    from edgelora.runtime.service import Service
    from edgelora.store.library import Library
    from edgelora.text.prompt import Message


@click.command(short_help="Ask once, or chat.")
@click.argument("words", metavar="[PROMPT]...", nargs=-1)
@click.option(
    "-a",
    "--adapter",
    "adapters",
    multiple=True,
    metavar="NAME[=WEIGHT]",
    shell_complete=adapter_names,
    help="The adapter to answer with. May be given several times; the deltas are added by weight.",
)
@click.option("-s", "--system", metavar="TEXT", help="A system prompt, which says how the model should behave.")
@sampling_options
@json_option
@base_option
@context_option
@machine_options
@click.pass_obj
def run(
    app: App,
    words: tuple[str, ...],
    adapters: tuple[str, ...],
    system: str | None,
    sampling: SamplingOptions,
    as_json: bool,
    base: str | None,
    context: int | None,
    machine: MachineOptions,
) -> None:
    """Answer PROMPT, and print the answer as it is generated.

    The prompt may also come from a pipe; a single - stands for the piped text. Without a prompt, on a terminal, this
    starts a chat, in which /adapter NAME switches adapters and /help lists the commands.

    \b
    edgelora run -a medical-faq What is hypertension?
    edgelora run -a medical-faq=0.7 -a pirate=0.3 What is hypertension?
    cat notes.txt | edgelora run "Summarise this:" -
    """
    from edgelora.core.model_id import split_weight

    if sampling.constraint is not None and sampling.stop:
        from edgelora.core.errors import UsageError

        message = "--stop and --json-schema cannot be combined, because a stop text could cut the JSON short."
        raise UsageError("stop_in_json", message, "Leave out one of the two.")
    weighted = [split_weight(adapter) for adapter in adapters]
    prompt = read_prompt(words, chat_allowed=not as_json)
    settings = app.settings(context=context, machine=machine)
    if prompt is not None and settings.weights == "auto":
        settings = replace(settings, weights="mapped")  # a single answer takes less time than repacking a large base
    service = _open(app, settings, base=base, adapters=[name for name, _ in weighted])
    with service:
        uses = service.compose(*weighted)
        if prompt is None:
            from edgelora.cli.chat.conversation import Chat
            from edgelora.cli.chat.terminal import converse

            converse(Chat(service, sampling=sampling, acting=uses, system=system), settings.directories.state)
        elif as_json:
            _answer_as_json(service, conversation(prompt, system), uses, sampling)
        else:
            _answer(service, conversation(prompt, system), uses, sampling)


def read_prompt(words: Sequence[str], *, chat_allowed: bool) -> str | None:
    """Return the prompt from the arguments and stdin; None asks for a chat. Raises UsageError where there is none."""
    from edgelora.core.errors import UsageError

    if not words:
        if sys.stdin.isatty():
            if chat_allowed:
                return None
            raise UsageError("no_prompt", "--json needs a prompt.", 'Give one: edgelora run --json "..."')
        words = ("-",)
    prompt = " ".join(_piped() if word == "-" else word for word in words)
    if not prompt.strip():
        raise UsageError("no_prompt", "The prompt is empty.", "Give one as an argument, or pipe one in.")
    return prompt


def _piped() -> str:
    from edgelora.core.errors import UsageError

    data = sys.stdin.buffer.read(PIPED_BYTES + 1)
    if len(data) > PIPED_BYTES:
        message = f"The piped prompt is larger than {PIPED_BYTES >> 20} MiB, which no context can hold."
        raise UsageError("prompt_too_large", message, "Pipe in a part of it.")
    try:
        return data.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UsageError("prompt_not_text", "The piped input is not UTF-8 text.", "Pipe in text.") from error


def conversation(prompt: str, system: str | None) -> list[Message]:
    from edgelora.text.prompt import Message

    opening = [Message("system", system)] if system else []
    return [*opening, Message("user", prompt)]


def _open(app: App, settings: Settings, *, base: str | None, adapters: Sequence[str]) -> Service:
    from edgelora.cli.support.progress import progress_bars

    with progress_bars() as bars:
        for adapter in adapters:
            check_adapter(app.open_library(bars), adapter)
        return app.service(settings, base=base, progress=bars)


def check_adapter(library: Library, adapter: str) -> None:
    """Raise NotFound for an unknown adapter before a large base is loaded. The service checks again."""
    from edgelora.core.model_id import split_model_id

    named = split_model_id(adapter)
    bases = {name for record in library.bases.list() for name in (record.name, *record.aliases)}
    if named.base is None and named.adapter is not None and named.adapter not in bases:
        library.store.resolve(named.adapter)


def _answer(
    service: Service, messages: Sequence[Message], uses: Sequence[AdapterUse], sampling: SamplingOptions
) -> None:
    from edgelora.cli.support.answer import Printer, follow, note_length
    from edgelora.cli.support.progress import spinner

    with spinner("Thinking ...") as waiting:
        printer = Printer(waiting)
        stream = service.chat(messages, adapters=uses, sampling=sampling.over(service.default_sampling()))
        finished = follow(stream, printer)
    printer.end_line()
    note_length(finished)


def _answer_as_json(
    service: Service, messages: Sequence[Message], uses: Sequence[AdapterUse], sampling: SamplingOptions
) -> None:
    from edgelora.cli.support.answer import follow
    from edgelora.cli.support.output import emit_json
    from edgelora.cli.support.progress import spinner

    parts: list[str] = []
    with spinner("Thinking ..."):
        stream = service.chat(messages, adapters=uses, sampling=sampling.over(service.default_sampling()))
        finished = follow(stream, parts.append)
    emit_json(
        {
            "answer": "".join(parts),
            "base": service.base.name,
            "adapters": [{"name": str(use.ref), "weight": use.weight} for use in uses],
        }
        | _measured(finished)
    )


def _measured(finished: Finished) -> dict[str, Any]:
    usage, timings = finished.usage, finished.timings
    rate = round(usage.completion_tokens / timings.decode, 2) if timings.decode > 0 else None
    return {
        "finish_reason": str(finished.reason),
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        },
        "drafts": {"tokens": usage.drafted_tokens, "accepted": usage.accepted_tokens},
        "timings": {
            "queued_seconds": round(timings.queued, 6),
            "load_seconds": round(timings.load, 6),
            "prefill_seconds": round(timings.prefill, 6),
            "decode_seconds": round(timings.decode, 6),
            "first_token_seconds": round(timings.first_token, 6),
            "tokens_per_second": rate,
        },
    }
