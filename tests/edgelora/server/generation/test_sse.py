"""The bytes of a stream, to the letter."""

from __future__ import annotations

import pytest

from edgelora.core.errors import BackendError
from edgelora.core.events import (
    Candidate,
    Event,
    Failed,
    Finished,
    FinishReason,
    ScoredToken,
    TextDelta,
    Timings,
    Usage,
)
from edgelora.server.api.openai.chat import CHAT
from edgelora.server.api.openai.chat_writer import ChatFormat, ChatWriter
from edgelora.server.api.openai.completions import COMPLETION, CompletionWriter
from edgelora.server.generation.choice_writer import ChoiceWriter
from edgelora.server.generation.follow import ChoiceResult
from edgelora.server.generation.sse import ChunkHead, ReplyShape, SseWriter, total, whole_answer

HEAD = ChunkHead(id="chatcmpl-1", created=1750000000, model="medical-faq", fingerprint="fp_0")
USAGE = Usage(prompt_tokens=7, completion_tokens=2, cached_tokens=3)
COUNTED = '{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9,"prompt_tokens_details":{"cached_tokens":3}}'
FINISHED = Finished(FinishReason.STOP, USAGE, Timings(0.0, 0.0, 0.0, 0.0))
ANSWER: tuple[Event | None, ...] = (TextDelta("Hé"), None, TextDelta('"\n'), FINISHED)

CHAT_START = (
    'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1750000000,"model":"medical-faq",'
    '"system_fingerprint":"fp_0","service_tier":"default","choices":['
)
TEXT_START = CHAT_START.replace("chat.completion.chunk", "text_completion").replace('"service_tier":"default",', "")


def _written(shape: ReplyShape, events: tuple[Event | None, ...], *, include_usage: bool) -> str:
    writer: ChoiceWriter = ChatWriter(ChatFormat()) if shape is CHAT else CompletionWriter()
    writer = SseWriter(HEAD, shape, [writer], include_usage=include_usage)
    results = [None if event is None else ChoiceResult(0, event) for event in events]
    return (writer.opening() + b"".join(map(writer.event, results))).decode()


def test_chat_stream() -> None:
    """Role first, then texts with keep-alives between, then the reason, then [DONE]."""
    assert _written(CHAT, ANSWER, include_usage=False) == (
        CHAT_START + '{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}\n\n'
        + CHAT_START + '{"index":0,"delta":{"content":"Hé"},"logprobs":null,"finish_reason":null}]}\n\n'
        + ": keep-alive\n\n"
        + CHAT_START + '{"index":0,"delta":{"content":"\\"\\n"},"logprobs":null,"finish_reason":null}]}\n\n'
        + CHAT_START + '{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}\n\n'
        + "data: [DONE]\n\n"
    )  # fmt: skip


def test_chat_stream_with_usage() -> None:
    """With include_usage every chunk has a null usage, and a last one without choices has the numbers."""
    assert _written(CHAT, (FINISHED,), include_usage=True) == (
        CHAT_START + '{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
        + ',"usage":null}\n\n'
        + CHAT_START + '{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}\n\n'
        + CHAT_START + '],"usage":' + COUNTED + "}\n\n"
        + "data: [DONE]\n\n"
    )  # fmt: skip


def test_completion_stream() -> None:
    """The older API has no opening chunk, and text in place of a delta."""
    assert _written(COMPLETION, (TextDelta("Hé"), FINISHED), include_usage=False) == (
        TEXT_START + '{"index":0,"text":"Hé","logprobs":null,"finish_reason":null}]}\n\n'
        + TEXT_START + '{"index":0,"text":"","logprobs":null,"finish_reason":"stop"}]}\n\n'
        + "data: [DONE]\n\n"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            BackendError("decode_failed", "The step failed.", "Try again."),
            "decode_failed",
            "The step failed. Try again.",
        ),
        (ValueError("a secret"), "internal_error", "The server failed to handle the request. Its log says why."),
    ],
)
def test_a_failure_is_a_frame_of_its_own(error: Exception, code: str, message: str) -> None:
    """An answer that broke off says so, and tells nothing of the inside."""
    assert _written(COMPLETION, (Failed(error),), include_usage=False) == (
        f'data: {{"error":{{"message":"{message}","type":"server_error","param":null,"code":"{code}"}}}}\n\n'
        "data: [DONE]\n\n"
    )


def test_whole_answers() -> None:
    """The JSON of an answer that is not streamed."""
    start = '{"id":"chatcmpl-1","object":"%s","created":1750000000,"model":"medical-faq","system_fingerprint":"fp_0",'
    tier = '"service_tier":"default",'
    end = '"usage":' + COUNTED + "}"
    deltas = [TextDelta("H"), TextDelta("é")]
    chat = ChatWriter(ChatFormat()).whole_choice(deltas, FinishReason.LENGTH)
    assert whole_answer(HEAD, CHAT, choices=[chat], usage=USAGE).decode() == (
        start % "chat.completion"
        + tier
        + '"choices":[{"index":0,"message":{"role":"assistant","content":"Hé","refusal":null},'
        '"logprobs":null,"finish_reason":"length"}],' + end
    )
    text = CompletionWriter().whole_choice(deltas, FinishReason.STOP)
    assert whole_answer(HEAD, COMPLETION, choices=[text], usage=USAGE).decode() == (
        start % "text_completion" + '"choices":[{"index":0,"text":"Hé","logprobs":null,"finish_reason":"stop"}],' + end
    )


SCORED = TextDelta(
    "é ", (ScoredToken(Candidate(5, b"\xc3", -0.5), (Candidate(5, b"\xc3", -0.5), Candidate(7, b"", -1.0)), start=2),)
)
TOKEN = '{"token":"bytes:\\\\xc3","logprob":-0.5,"bytes":[195]'
OTHER = '{"token":"","logprob":-1.0,"bytes":null}'


def test_logprobs_of_a_chat() -> None:
    """Beside the text they belong to: bytes that are no text are spelled, a control token has none."""
    writer = SseWriter(HEAD, CHAT, [ChatWriter(ChatFormat(logprobs=True))], include_usage=False)
    content = '{"content":[' + TOKEN + ',"top_logprobs":[' + TOKEN + "}," + OTHER + ']}],"refusal":null}'
    assert writer.event(ChoiceResult(0, SCORED)).decode() == (
        CHAT_START + '{"index":0,"delta":{"content":"é "},"logprobs":' + content + ',"finish_reason":null}]}\n\n'
    )


def test_logprobs_of_a_completion() -> None:
    """In the older API's shape, with the places in the answer."""
    writer = SseWriter(HEAD, COMPLETION, [CompletionWriter("", 2)], include_usage=False)
    scores = (
        '{"tokens":["bytes:\\\\xc3"],"token_logprobs":[-0.5],"top_logprobs":[{"bytes:\\\\xc3":-0.5,"":-1.0}],'
        '"text_offset":[2]}'
    )
    assert writer.event(ChoiceResult(0, SCORED)).decode() == (
        TEXT_START + '{"index":0,"text":"é ","logprobs":' + scores + ',"finish_reason":null}]}\n\n'
    )


def test_several_choices_in_one_stream() -> None:
    """Each chunk has its choice's index; usage and [DONE] come behind the last of them, the prompt counted once."""
    writer = SseWriter(HEAD, COMPLETION, [CompletionWriter(), CompletionWriter()], include_usage=True)
    results = [
        ChoiceResult(1, TextDelta("B")),
        ChoiceResult(0, TextDelta("A")),
        ChoiceResult(1, FINISHED),
        ChoiceResult(0, FINISHED),
    ]
    frames = [writer.event(result).decode() for result in results]
    assert ['"index":1' in frame for frame in frames] == [True, False, True, False]
    assert "[DONE]" not in "".join(frames[:3]) and frames[3].endswith("data: [DONE]\n\n")
    assert '"usage":{"prompt_tokens":7,"completion_tokens":4,"total_tokens":11,' in frames[3]
    assert total([USAGE, Usage(7, 3, cached_tokens=1)]) == Usage(7, 5, cached_tokens=1)


def test_the_usage_of_several_prompts() -> None:
    """Each prompt counts once, whichever of its choices ends first."""
    usages = [Usage(7, 1, cached_tokens=3), Usage(7, 2, cached_tokens=5), Usage(4, 3), Usage(4, 4, cached_tokens=2)]
    assert total(usages, prompts=2) == Usage(11, 10, cached_tokens=3)
    writer = SseWriter(HEAD, COMPLETION, [CompletionWriter()] * 4, include_usage=True, prompts=2)
    ends = [ChoiceResult(n, Finished(FinishReason.STOP, usages[n], FINISHED.timings)) for n in (3, 1, 2, 0)]
    frames = [writer.event(end).decode() for end in ends]
    assert '"prompt_tokens":11,"completion_tokens":10' in frames[-1] and "[DONE]" not in "".join(frames[:3])
