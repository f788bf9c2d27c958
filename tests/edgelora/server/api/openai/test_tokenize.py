"""Texts as tokens and back, in vLLM's words and in llama-server's, and what a request would have."""

from __future__ import annotations

from typing import Any

import pytest

from edgelora.text.prompt import Message, encode_chat
from tests.support.fake_backend.tokenizer import BOS, EOT
from tests.support.server import RunningServer
from tests.support.service import FakeService

MESSAGES = [{"role": "user", "content": "Hi"}]


def _post(server: RunningServer, path: str, body: dict[str, Any]) -> Any:
    reply = server.post(path, body)
    assert reply.status == 200, reply.body
    return reply.json


@pytest.mark.parametrize("prefix", ["", "/v1", "/openai/v1"])
def test_a_prompt_as_vllm_tokenises_it(server: RunningServer, service: FakeService, prefix: str) -> None:
    """BOS in front unless it was declined; count and context with it; each token's text where asked for."""
    body = {"model": "tiny", "prompt": "Hi<|eot_id|>", "return_token_strs": True}
    reply = _post(server, f"{prefix}/tokenize", body)
    assert reply["tokens"] == [BOS, *b"Hi", EOT]
    assert (reply["count"], reply["max_model_len"]) == (4, service.limit)
    assert reply["token_strs"] == ["", "H", "i", ""]
    assert _post(server, f"{prefix}/tokenize", {**body, "add_special_tokens": False})["tokens"] == [*b"Hi", EOT]
    assert _post(server, f"{prefix}/tokenize", {"prompt": "<|begin_of_text|>Hi"})["tokens"] == [BOS, *b"Hi"]


def test_a_conversation_is_tokenised_as_it_is_answered(server: RunningServer, service: FakeService) -> None:
    """The template is the base's, the ids are those that a chat would compute, and counting counts them."""
    ids = list(encode_chat([Message("user", "Hi")], service.tokenizer))
    assert _post(server, "/tokenize", {"messages": MESSAGES})["tokens"] == ids
    chat = {"model": "medical-faq", "messages": MESSAGES}
    answered = server.post("/v1/chat/completions", {**chat, "max_tokens": 1}).json["usage"]["prompt_tokens"]
    counted = _post(server, "/v1/chat/completions/input_tokens", chat)
    assert counted == {"object": "response.input_tokens", "input_tokens": len(ids)} and answered == len(ids)


def test_counting_is_not_limited_by_the_context(server: RunningServer, service: FakeService) -> None:
    """Counting works for prompts that do not fit the context, too."""
    long = {"model": "tiny", "messages": [{"role": "user", "content": "x" * (2 * service.limit)}]}
    assert server.post("/v1/chat/completions", long).error["code"] == "context_length_exceeded"
    assert _post(server, "/v1/chat/completions/input_tokens", long)["input_tokens"] > 2 * service.limit


def test_content_as_llama_server_tokenises_it(server: RunningServer) -> None:
    """No BOS unless asked for; control tokens may be read as plain text; pieces that are no text come as bytes."""
    assert _post(server, "/tokenize", {"content": "Hi<|eot_id|>"})["tokens"] == [*b"Hi", EOT]
    assert _post(server, "/tokenize", {"content": "Hi", "add_special": True})["tokens"] == [BOS, *b"Hi"]
    plain = _post(server, "/tokenize", {"content": "<|eot_id|>", "parse_special": False})
    assert plain["tokens"] == list(b"<|eot_id|>")
    pieces = _post(server, "/tokenize", {"content": "aá", "with_pieces": True})["tokens"]
    assert pieces == [{"id": 97, "piece": "a"}, {"id": 195, "piece": [195]}, {"id": 161, "piece": [161]}]
    assert _post(server, "/tokenize", {"content": ""})["tokens"] == []


def test_tokens_become_the_text_they_came_from(server: RunningServer) -> None:
    """Both servers' clients find it under their name; control tokens have no text."""
    ids = _post(server, "/tokenize", {"prompt": "größer 🚀"})["tokens"]
    assert _post(server, "/detokenize", {"tokens": ids}) == {"prompt": "größer 🚀", "content": "größer 🚀"}
    assert _post(server, "/v1/detokenize", {"tokens": []})["content"] == ""
    assert _post(server, "/detokenize", {"tokens": [0xC3]})["content"] == "\ufffd"


@pytest.mark.parametrize(
    ("path", "body", "code", "param"),
    [
        ("/tokenize", {}, "missing_required_parameter", "prompt"),
        ("/tokenize", {"prompt": "a", "content": "b"}, "invalid_value", "content"),
        ("/tokenize", {"prompt": 5}, "invalid_type", "prompt"),
        ("/tokenize", {"prompt": "\ud800"}, "invalid_value", "prompt"),
        ("/tokenize", {"content": "a" * (2 << 20) + "b"}, "prompt_too_large", "content"),
        ("/tokenize", {"messages": []}, "invalid_value", "messages"),
        ("/tokenize", {"messages": MESSAGES, "add_generation_prompt": False}, "unsupported_parameter", None),
        ("/tokenize", {"prompt": "a", "model": "tinyy"}, "model_not_found", "model"),
        ("/detokenize", {"tokens": [99999]}, "invalid_value", "tokens[0]"),
        ("/detokenize", {"tokens": [-1]}, "invalid_value", "tokens[0]"),
        ("/detokenize", {"tokens": "1"}, "invalid_type", "tokens"),
        ("/v1/chat/completions/input_tokens", {"model": "tiny"}, "missing_required_parameter", "messages"),
        ("/v1/chat/completions/input_tokens", {"model": "x", "messages": MESSAGES}, "model_not_found", "model"),
    ],
)
def test_errors_name_the_field(
    server: RunningServer, path: str, body: dict[str, Any], code: str, param: str | None
) -> None:
    """The field at fault is named; nothing is guessed."""
    reply = server.post(path, body)
    assert reply.status in (400, 404) and reply.error["code"] == code
    assert param is None or reply.error["param"] == param


@pytest.mark.parametrize("prefix", ["/v1", "/openai/v1"])
def test_embeddings_are_a_clear_no(server: RunningServer, prefix: str) -> None:
    """501, and clients are told not to repeat it."""
    reply = server.post(f"{prefix}/embeddings", {"model": "tiny", "input": "Hi"})
    assert (reply.status, reply.error["code"]) == (501, "embeddings_not_supported")
    assert reply.headers["x-should-retry"] == "false"
