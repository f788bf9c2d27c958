"""The bytes of a stream, to the letter."""

from __future__ import annotations

import pytest

from edgelora.core import Event, Failed, Finished, FinishReason, TextDelta, Timings, Usage
from edgelora.errors import BackendError
from edgelora.server.chat import CHAT
from edgelora.server.completions import COMPLETION
from edgelora.server.sse import Head, Shape, SseWriter, whole_answer

HEAD = Head(id="chatcmpl-1", created=1750000000, model="medical-faq", fingerprint="fp_0")
USAGE = Usage(prompt_tokens=7, completion_tokens=2, cached_tokens=3)
COUNTED = '{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9,"prompt_tokens_details":{"cached_tokens":3}}'
FINISHED = Finished(FinishReason.STOP, USAGE, Timings(0.0, 0.0, 0.0, 0.0))
ANSWER: tuple[Event | None, ...] = (TextDelta("Hé"), None, TextDelta('"\n'), FINISHED)

CHAT_START = (
    'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1750000000,"model":"medical-faq",'
    '"system_fingerprint":"fp_0","choices":['
)
TEXT_START = CHAT_START.replace("chat.completion.chunk", "text_completion")


def _written(shape: Shape, events: tuple[Event | None, ...], *, include_usage: bool) -> str:
    writer = SseWriter(HEAD, shape, include_usage=include_usage)
    return (writer.opening() + b"".join(map(writer.event, events))).decode()


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
    end = '"usage":' + COUNTED + "}"
    assert whole_answer(HEAD, CHAT, text="Hé", reason=FinishReason.LENGTH, usage=USAGE).decode() == (
        start
        % "chat.completion"
        + '"choices":[{"index":0,"message":{"role":"assistant","content":"Hé","refusal":null},'
        '"logprobs":null,"finish_reason":"length"}],' + end
    )
    assert whole_answer(HEAD, COMPLETION, text="Hé", reason=FinishReason.STOP, usage=USAGE).decode() == (
        start % "text_completion" + '"choices":[{"index":0,"text":"Hé","logprobs":null,"finish_reason":"stop"}],' + end
    )
