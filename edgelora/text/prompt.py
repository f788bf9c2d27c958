"""From messages to token ids: the base's chat template, then its tokeniser. Runs in the request's thread, never in the
engine's.

Control tokens come from the template alone. Where a message spells one out, a sentinel (a private-use character that no
message has) is put inside it; the rendered text is split there and the parts are tokenised one by one, so the model
reads exactly the characters that were written, as plain text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

from edgelora.core.errors import ContextTooLong, UsageError
from edgelora.core.tokenizer import Tokenizer
from edgelora.text.chat_template import render
from edgelora.text.tools import Change, Tool, ToolCall, Turn, in_words, texts

ROLES = ("system", "user", "assistant", "tool")
LARGE = 2 << 20
"""Characters of all messages together, or of one text. More is refused before any other work where it cannot fit, or
where the vocabulary cannot tell: the tokeniser must not spend seconds on finding out."""

# Where to break up a message that spells a control token: they begin with one of the first in every known vocabulary;
# the second and third are there for the unknown ones.
_BREAKS = (re.compile(r"[<\[]"), re.compile(r"[^\w\s]"), re.compile(r".", re.DOTALL))
# A message's end that may be the first half of a control token, whose other half is the next message's beginning.
_OPEN_END = re.compile(r"[<\[](?=[^\s<>\[\]]*\s*\Z)")
_PRIVATE_USE = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))
_PRIVATE = re.compile("[\ue000-\uf8ff\U000f0000-\U000ffffd\U00100000-\U0010fffd]")


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    """Role of the author, one of ROLES."""
    content: str
    calls: tuple[ToolCall, ...] = ()
    """The functions the assistant called."""
    call_id: str = ""
    """Id of the call that a tool's message answers."""
    name: str = ""
    """Name of the author, for templates that show one."""

    def turn(self, change: Change) -> Turn:
        """Return the message in the form of chat templates, with `change` applied to every text."""
        turn: Turn = {"role": self.role, "content": change(self.content)}
        if self.calls:
            turn["tool_calls"] = [call.spec(change) for call in self.calls]
        if self.name:
            turn["name"] = change(self.name)
        return {**turn, "tool_call_id": change(self.call_id)} if self.role == "tool" else turn


def encode_chat(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    *,
    tools: Sequence[Tool] = (),
    limit: int | None = None,
    continued: bool = False,
) -> tuple[int, ...]:
    """Return the token ids of a conversation, up to where the assistant's next message begins.

    BOS is there if the template writes it, as in transformers (`apply_chat_template`) and mlx-lm. A base without a
    template gets plain lines, `role: content`, and `assistant:` at the end, with BOS as for a plain text. `tools`: the
    functions that the answer may call, described by the template or, if it knows none, in words. A conversation that
    certainly has `limit` tokens or more is refused before it is tokenised. `continued`: the tokens end within the last
    message, the assistant's, without what the template writes after its text, as transformers'
    `continue_final_message` does.

    Raises ContextTooLong, and UsageError: code bad_messages (a role, an order or characters that the template cannot
    take), bad_template (an error of the template itself), prompt_too_large.
    """
    _check(messages, continued=continued)
    _check_text("".join(message.content for message in messages), tokenizer, limit, param="messages")
    plain, specs = [message.turn(str) for message in messages], [tool.spec(str) for tool in tools]
    written = [*texts(plain), *texts(specs)]
    _check_unicode("".join(written), param="messages")
    source = tokenizer.chat_template
    if source is None:
        lines = [f"{turn['role']}: {turn['content']}\n" for turn in in_words(plain, specs)]
        text = "".join(lines)
        text = text.removesuffix("\n") if continued else f"{text}assistant:"
        _check_fits(text, tokenizer, limit)
        return tuple(tokenizer.tokenize(text, special=False, bos=tokenizer.adds_bos))
    sentinel = _sentinel(chain((source,), written))
    mark = _sentinel(chain((source, sentinel), written)) if continued else None
    if limit is not None and sum(map(len, written)) >= limit:
        # What the template makes of it counts: it may leave things out. Unguarded, this costs nothing like a tokeniser.
        _check_fits(_rendered(source, plain, specs, tokenizer, mark), tokenizer, limit)
    guard = partial(_guard, sentinel=sentinel, tokenizer=tokenizer)
    guarded = [message.turn(guard) for message in messages]
    text = _rendered(source, guarded, [tool.spec(guard) for tool in tools], tokenizer, mark)
    return tuple(_tokenize(text.split(sentinel), tokenizer, bos=False))


def encode_text(prompt: str, tokenizer: Tokenizer, *, limit: int | None = None) -> tuple[int, ...]:
    """Return the token ids of a plain text, with BOS in front if the base's tokenizer adds it and the text has none.

    Control tokens in the text count as such, since the client writes the template too. Raises as `encode_chat`.
    """
    _check_text(prompt, tokenizer, limit, param="prompt")
    _check_fits(prompt, tokenizer, limit)
    written = bool(tokenizer.bos_text) and prompt.startswith(tokenizer.bos_text)
    return tuple(_tokenize([prompt], tokenizer, bos=tokenizer.adds_bos and not written))


def _rendered(
    source: str, turns: Sequence[Turn], specs: Sequence[dict[str, Any]], tokenizer: Tokenizer, mark: str | None
) -> str:
    """Return what the template writes.

    `mark`: a character that occurs in none of the texts. It marks the end of the last message's text, and what follows
    is cut off; None cuts nothing.
    """
    if mark is None:
        return render(source, turns, specs, tokenizer)
    *before, last = turns
    marked = {**last, "content": f"{last['content']}{mark} "}
    shown, found, after = render(source, [*before, marked], specs, tokenizer, open_turn=False).rpartition(mark)
    if not found or last["content"].strip() not in shown:
        problem = "The base's chat template does not show the text of the last message, so it cannot be continued."
        raise UsageError("bad_messages", problem, "Let the answer be a message of its own.", param="messages")
    # A template that strips the space behind the mark would have stripped the text's own.
    return shown if after.startswith(" ") else shown.rstrip()


def _tokenize(parts: Sequence[str], tokenizer: Tokenizer, *, bos: bool) -> Iterator[int]:
    yield from tokenizer.tokenize(parts[0], special=True, bos=bos)
    for part in parts[1:]:
        yield from tokenizer.tokenize(part, special=True, bos=False)


def _check(messages: Sequence[Message], *, continued: bool) -> None:
    if not messages:
        raise UsageError("bad_messages", "There are no messages.", "Send at least one.", param="messages")
    for message in messages:
        if message.role not in ROLES:
            problem = f"A message has the role {message.role!r}."
            raise UsageError("bad_messages", problem, f"Use one of {', '.join(ROLES)}.", param="messages")
    if continued and (messages[-1].role != "assistant" or messages[-1].calls):
        problem = "The last message is not a text of the assistant, which could be continued."
        raise UsageError("bad_messages", problem, "Put the beginning of the answer there.", param="messages")


def _check_text(text: str, tokenizer: Tokenizer, limit: int | None, *, param: str) -> None:
    if len(text) > LARGE:
        _check_fits(text, tokenizer, limit)
        if limit is None or not tokenizer.fewest_tokens(text):
            problem = f"The text has {len(text):,} characters; at most {LARGE:,} are accepted."
            raise UsageError("prompt_too_large", problem, "Shorten it.", param=param)
    _check_unicode(text, param=param)


def _check_unicode(text: str, *, param: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        problem = "The text holds half of a surrogate pair, which is no character."
        raise UsageError("bad_messages", problem, "Send well-formed Unicode.", param=param) from None


def _check_fits(text: str, tokenizer: Tokenizer, limit: int | None) -> None:
    if limit is not None and (least := tokenizer.fewest_tokens(text)) >= limit:
        raise ContextTooLong(tokens=least, limit=limit, at_least=True)


def _sentinel(texts: Iterator[str]) -> str:
    used = {char for text in texts for char in _PRIVATE.findall(text)}
    for code in chain.from_iterable(_PRIVATE_USE):
        if chr(code) not in used:
            return chr(code)
    raise UsageError("bad_messages", "The text uses every private-use character there is.", param="messages")


def _guard(content: str, sentinel: str, tokenizer: Tokenizer) -> str:
    """Return `content` with sentinels, so that tokenizing its parts never gives a control token."""

    guarded = _OPEN_END.sub(lambda match: match[0] + sentinel, content)
    for place in _BREAKS:
        if not any(tokenizer.spells_control(part) for part in guarded.split(sentinel)):
            break
        guarded = place.sub(lambda match: match[0] + sentinel, content)
    return guarded
