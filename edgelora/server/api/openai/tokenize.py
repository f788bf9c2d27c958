"""POST /tokenize, /detokenize and .../input_tokens: text to tokens, tokens to text, and the length of a prompt.

The clients of three servers work. vLLM's send `prompt` or `messages`, llama-server's `content`, and each finds its own
fields in the reply. The engine is not used.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from edgelora.core.errors import UsageError
from edgelora.core.tokenizer import Tokenizer
from edgelora.runtime.interface import Runtime
from edgelora.server.api.openai.chat import ChatBody, ChatMessage, chat_messages, chat_tools, continues
from edgelora.server.generation.known_fields import CHAT_INERT
from edgelora.server.generation.request_adapters import resolve_adapters
from edgelora.server.generation.request_body import ModelName, TokenId, parse_body
from edgelora.server.http.endpoint import Access, Endpoint, Inert
from edgelora.server.http.json_route import JsonRoute
from edgelora.server.http.options import ServerOptions
from edgelora.server.http.validation import check_text, invalid, missing, refuse_unsupported, typed
from edgelora.text.prompt import LARGE, encode_chat

TOKENIZE_INERT: Inert = {
    "add_generation_prompt": (True,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "tools": ([],),
}


class TokenizeBody(Struct, frozen=True, kw_only=True):
    """Has one of `prompt`, `messages` and `content`. The base's template is applied to messages; BOS is added once."""

    model: ModelName | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Meta(min_length=1)] | None = None
    content: str | None = None
    add_special_tokens: bool | None = None
    """Put BOS before `prompt`; true by default."""
    return_token_strs: bool | None = None
    add_special: bool | None = None
    """Put BOS before `content`; false by default."""
    parse_special: bool | None = None
    """Read control tokens written out in `content` as those tokens; true by default."""
    with_pieces: bool | None = None


class DetokenizeBody(Struct, frozen=True, kw_only=True):
    tokens: list[TokenId]
    model: ModelName | None = None


class Piece(Struct, frozen=True):
    id: int
    piece: str | list[int]
    """The token's text, or its bytes if they are no text by themselves."""


class Tokenized(Struct, frozen=True):
    tokens: list[int | Piece]
    count: int
    max_model_len: int
    """Maximum number of tokens of prompt and answer together."""
    token_strs: list[str] | None = None


class Detokenized(Struct, frozen=True):
    """The same text under both servers' names. Control tokens have no text."""

    prompt: str
    content: str


class InputTokens(Struct, frozen=True):
    input_tokens: int
    object: Literal["response.input_tokens"] = "response.input_tokens"


def token_endpoints(runtime: Runtime, options: ServerOptions) -> tuple[Endpoint, ...]:
    """Return the endpoints at the paths without a prefix, which vLLM and llama-server have too."""
    return _token_endpoints("", "", runtime, options)


def v1_token_endpoints(runtime: Runtime, options: ServerOptions) -> tuple[Endpoint, ...]:
    """Return the same endpoints under /v1, and the one that counts a chat's tokens."""
    chat = JsonRoute(options, lambda raw: count_chat(runtime, raw))
    return (
        *_token_endpoints("/v1", "v1", runtime, options),
        Endpoint(
            "POST", "/v1/chat/completions/input_tokens", chat, Access.KEY, "countChatTokens",
            "Count the prompt tokens of a chat completion", body=ChatBody, inert=CHAT_INERT, reply=InputTokens,
            metered=True,
        ),
    )  # fmt: skip


def _token_endpoints(prefix: str, name: str, runtime: Runtime, options: ServerOptions) -> tuple[Endpoint, ...]:
    return (
        Endpoint(
            "POST", f"{prefix}/tokenize", JsonRoute(options, lambda raw: tokenize(runtime, raw)), Access.KEY,
            f"{name}tokenize", "Tokenize a text or a conversation",
            body=TokenizeBody, inert=TOKENIZE_INERT, reply=Tokenized, metered=True,
        ),
        Endpoint(
            "POST", f"{prefix}/detokenize", JsonRoute(options, lambda raw: detokenize(runtime, raw)), Access.KEY,
            f"{name}detokenize", "Detokenize tokens", body=DetokenizeBody, reply=Detokenized,
            metered=True,
        ),
    )  # fmt: skip


def tokenize(runtime: Runtime, raw: dict[str, object]) -> Tokenized:
    """Return the tokens of a text or of messages. Raises UsageError naming the field, and NotFound for the model."""
    refuse_unsupported(raw, TOKENIZE_INERT)
    body = typed(raw, TokenizeBody)
    _check_model(runtime, body.model)
    tokenizer = runtime.tokenizer
    ids = _ids(body, raw, tokenizer)
    return Tokenized(
        tokens=[_piece(token, tokenizer) for token in ids] if body.with_pieces else list(ids),
        count=len(ids),
        max_model_len=runtime.limit,
        token_strs=[_text([token], tokenizer) for token in ids] if body.return_token_strs else None,
    )


def detokenize(runtime: Runtime, raw: dict[str, object]) -> Detokenized:
    """Return the text of tokens. Raises UsageError for an id outside the vocabulary, and NotFound for the model."""
    body = typed(raw, DetokenizeBody)
    _check_model(runtime, body.model)
    tokenizer = runtime.tokenizer
    for index, token in enumerate(body.tokens):
        if token >= tokenizer.size:
            raise invalid(f"tokens[{index}]", f"must be below {tokenizer.size}, the size of the vocabulary")
    text = _text(body.tokens, tokenizer)
    return Detokenized(text, text)


def count_chat(runtime: Runtime, raw: dict[str, object]) -> InputTokens:
    """Count the prompt tokens of a chat body, even if they do not fit the context. Raises as the chat endpoint does."""
    body = parse_body(raw, ChatBody, CHAT_INERT)
    messages = chat_messages(body.messages, raw)
    resolve_adapters(runtime, body)
    tools = chat_tools(body).tools
    return InputTokens(len(encode_chat(messages, runtime.tokenizer, tools=tools, continued=continues(body))))


def _check_model(runtime: Runtime, model: str | None) -> None:
    # Every adapter has the base's vocabulary, so it is enough that the model exists.
    if model is not None:
        check_text(model, "model")
        runtime.model(model)


def _ids(body: TokenizeBody, raw: dict[str, object], tokenizer: Tokenizer) -> tuple[int, ...]:
    given = [name for name in ("prompt", "messages", "content") if getattr(body, name) is not None]
    if not given:
        raise missing("prompt")
    if len(given) > 1:
        raise invalid(given[1], f"is sent together with {given[0]!r}: send one of them")
    if body.messages is not None:
        return encode_chat(chat_messages(body.messages, raw), tokenizer)
    if body.prompt is not None:
        return _tokens(body.prompt, tokenizer, param="prompt", special=True, bos=body.add_special_tokens is not False)
    special = body.parse_special is not False
    return _tokens(body.content or "", tokenizer, param="content", special=special, bos=bool(body.add_special))


def _tokens(text: str, tokenizer: Tokenizer, *, param: str, special: bool, bos: bool) -> tuple[int, ...]:
    check_text(text, param)
    if len(text) > LARGE:
        message = f"The text has {len(text):,} characters; at most {LARGE:,} are accepted."
        raise UsageError("prompt_too_large", message, "Send it in parts.", param=param)
    written = special and tokenizer.bos_text and text.startswith(tokenizer.bos_text)
    return tuple(tokenizer.tokenize(text, special=special, bos=bos and tokenizer.adds_bos and not written))


def _text(tokens: list[int], tokenizer: Tokenizer) -> str:
    return b"".join(tokenizer.piece(token) for token in tokens).decode("utf-8", errors="replace")


def _piece(token: int, tokenizer: Tokenizer) -> Piece:
    piece = tokenizer.piece(token)
    try:
        return Piece(token, piece.decode("utf-8"))
    except UnicodeDecodeError:
        return Piece(token, list(piece))
