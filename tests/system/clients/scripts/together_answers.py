"""What together 2 and 3 take alike: calls, text and logprobs, whole and streamed."""

import json

from checks import ASK, MARK, QUESTION, case

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"town": {"enum": ["Bonn", "Ulm"]}},
            "required": ["town"],
            "additionalProperties": False,
        },
    },
}
USAGE = {"stream_options": {"include_usage": True}}


def answers(client):
    """Have `main` run the cases."""
    chat = client.chat.completions.create
    text = client.completions.create

    def called(**asked):
        return chat(model="edgelora-tiny", messages=ASK, tools=[TOOL], tool_choice="required", max_tokens=60, **asked)

    @case
    def calls():
        for index, call in enumerate(called().choices[0].message.tool_calls):
            assert call.index == index and call.id and call.function.name == "get_weather"

    @case
    def calls_streamed():
        chunks = list(called(stream=True, extra_body={"parallel_tool_calls": False, **USAGE}))
        (call,) = [call for chunk in chunks for one in chunk.choices for call in one.delta.tool_calls or ()]
        assert call.index == 0 and call.id and call.function.name == "get_weather"
        assert json.loads(call.function.arguments)["town"] in ("Bonn", "Ulm")
        assert chunks[-2].choices[0].finish_reason == "tool_calls" and chunks[-1].usage.completion_tokens

    @case
    def text_streamed():
        asked = {"model": "edgelora-tiny", "prompt": f"{QUESTION}\n\n", "max_tokens": 6}
        whole, chunks = text(**asked).choices[0], list(text(**asked, stream=True, extra_body=USAGE))
        assert "".join(chunk.choices[0].text for chunk in chunks) == whole.text
        assert len(chunks) > 1 and all(chunk.finish_reason is None for chunk in chunks[:-1])
        assert chunks[-1].finish_reason == whole.finish_reason and chunks[-1].usage.completion_tokens >= len(chunks)
        assert all(chunk.token.logprob <= 0 and chunk.token.id >= 0 for chunk in chunks)

    @case
    def text_with_echo_and_with_logprobs():
        chunks = list(text(model="edgelora-tiny", prompt="One, two,", max_tokens=3, stream=True, echo=True))
        assert chunks[0].choices[0].text.startswith("One, two,") and chunks[0].token.text
        scores = text(model="edgelora-tiny", prompt="One, two,", max_tokens=3, logprobs=2).choices[0].logprobs
        assert len(scores.token_ids) == len(scores.tokens) == len(scores.token_logprobs) > 0

    @case
    def logprobs():
        made = chat(model="medical-faq", messages=ASK, logprobs=2).choices[0]
        scores = made.logprobs
        assert MARK in "".join(scores.tokens) and scores.top_logprobs is None
        assert all(len(one["top_logprobs"]) == 2 for one in scores.content)
        single = chat(model="medical-faq", messages=ASK, logprobs=2, max_tokens=1).choices[0].logprobs
        assert len(single.top_logprobs) == 2
        chunks = list(chat(model="medical-faq", messages=ASK, logprobs=2, stream=True))
        told = [one for chunk in chunks for one in chunk.choices if one.logprobs is not None]
        assert [one.delta.token_id for one in told] == scores.token_ids
        assert all(abs(one.logprobs - value) < 1e-3 for one, value in zip(told, scores.token_logprobs, strict=True))
        assert all(len(one.top_logprobs) == 2 for one in told)
        text_of = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text_of == made.message.content
