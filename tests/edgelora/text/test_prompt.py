"""Messages to tokens: the template's control tokens and nobody else's, BOS once, the text exact."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.core.errors import ContextTooLong, UsageError
from edgelora.text.prompt import LARGE, Message, encode_chat, encode_text
from edgelora.text.tools import ToolCall
from tests.support.fake_backend.tokenizer import (
    BOS,
    CHAT_TEMPLATE,
    CONTROL_TEXTS,
    END_HEADER,
    EOT,
    START_HEADER,
    FakeTokenizer,
)

VOCABULARY = FakeTokenizer()


def user(text: str) -> list[Message]:
    return [Message("user", text)]


def read(tokens: tuple[int, ...]) -> str:
    """What the tokens say, control tokens written out."""
    data = b"".join(bytes([t]) if t < 256 else CONTROL_TEXTS[t - 256].encode() for t in tokens)
    return data.decode()


def controls(tokens: tuple[int, ...]) -> list[int]:
    return [t for t in tokens if t >= 256]


def with_template(source: str | None) -> FakeTokenizer:
    return FakeTokenizer(chat_template=source)


ONE_TURN = [BOS, START_HEADER, END_HEADER, EOT, START_HEADER, END_HEADER]


def test_the_llama_3_form() -> None:
    """Two messages, exactly as the template writes them, and the assistant's header at the end."""
    tokens = encode_chat([Message("system", "Be brief."), Message("user", " Hi ")], VOCABULARY)
    assert read(tokens) == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert controls(tokens)[:4] == [BOS, START_HEADER, END_HEADER, EOT]


@pytest.mark.parametrize("control", CONTROL_TEXTS)
def test_a_message_cannot_hold_a_control_token(control: str) -> None:
    """Written in a message, a control token is plain text: the model reads the characters, and only the template's
    tokens are tokens."""
    text = f"a {control}{control} b {control}"
    tokens = encode_chat(user(text), VOCABULARY)
    assert controls(tokens) == ONE_TURN
    assert text in read(tokens)


def test_two_messages_cannot_make_one_together() -> None:
    """A template that writes messages side by side does not join the halves of a control token."""
    tokenizer = with_template("{{ bos_token }}{% for m in messages %}{{ m.content | trim }}{% endfor %}")
    for cut in range(1, len("<|eot_id|>")):
        halves = [Message("user", "x" + "<|eot_id|>"[:cut] + " "), Message("user", "<|eot_id|>"[cut:])]
        tokens = encode_chat(halves, tokenizer)
        assert controls(tokens) == [BOS] and read(tokens) == "<|begin_of_text|>x<|eot_id|>"


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from([*CONTROL_TEXTS, "<|", "|>", "<", ">", "eot_id", "é", "\ue000", "日", " ", "\n"])))
def test_no_text_injects_anything(pieces: list[str]) -> None:
    """Any mixture of control texts, their fragments and private-use characters: same characters, no extra token."""
    text = "".join(pieces)
    tokens = encode_chat(user(text), VOCABULARY)
    assert controls(tokens) == ONE_TURN
    before, after = read(encode_chat(user("|"), VOCABULARY)).split("\n\n|<")
    assert read(tokens) == f"{before}\n\n{text.strip()}<{after}"


@dataclass(frozen=True)
class LettersVocabulary:
    """One with a control token made of letters, which only the last resort can break up."""

    size = 257
    end_ids: frozenset[int] = frozenset()
    bos_text: str = ""
    eos_text: str = ""
    chat_template: str | None = "{{ messages[0].content }}STOP"

    def tokenize(self, text: str, *, special: bool, bos: bool) -> list[int]:
        parts = text.split("STOP") if special else [text]
        return [256 if t == -1 else t for n, part in enumerate(parts) for t in [*([-1] if n else []), *part.encode()]]

    def spells_control(self, text: str) -> bool:
        return "STOP" in text

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else b""


def test_unusual_control_tokens_are_broken_up_too() -> None:
    """No list of known shapes is trusted: what still parses as a control token is broken up further."""
    assert encode_chat(user("do STOP"), LettersVocabulary()) == (*b"do STOP", 256)


def test_ordinary_text_is_tokenised_in_one_piece() -> None:
    """Angle brackets, code and private-use characters alone change nothing: merges across them stay possible."""
    seen: list[str] = []

    class Recording(FakeTokenizer):
        def tokenize(self, text: str, *, special: bool, bos: bool) -> list[int]:
            seen.append(text)
            return FakeTokenizer.tokenize(self, text, special=special, bos=bos)

    encode_chat(user("if a < b and list[0] > 1: \ue000 <div>"), Recording())
    assert seen[-1].endswith("<|end_header_id|>\n\n") and seen[-1].startswith("<|begin_of_text|>")


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("bos", [True, False])
def test_a_chat_has_the_bos_that_its_template_writes(bos: bool, adds_bos: bool) -> None:
    """As in transformers, whatever the tokenizer does with a plain text; one in the message does not count."""
    source = "{{ bos_token }}{{ messages[0].content }}" if bos else "{{ messages[0].content }}"
    tokens = encode_chat(user("<|begin_of_text|>x"), FakeTokenizer(source, adds_bos))
    assert controls(tokens) == [BOS] * bos and read(tokens[bos:]) == "<|begin_of_text|>x"


def test_a_tokenizer_that_adds_no_bos() -> None:
    """A plain text begins with BOS only where the base's tokenizer puts it there, or where the text has it."""
    none = FakeTokenizer(None, adds_bos=False)
    assert encode_text("a", none) == (ord("a"),) and encode_text("<|begin_of_text|>a", none) == (BOS, ord("a"))
    assert controls(encode_chat(user("x"), none)) == []


def test_unicode_arrives_unharmed() -> None:
    """Characters of one to four bytes, and ones that trim must not take for whitespace."""
    text = "né 日本 👩\u200d⚕️ \U0010ffff"
    assert text in read(encode_chat(user(text), VOCABULARY))


def test_templates_get_what_transformers_gives_them() -> None:
    """Trimmed blocks, loop controls, tojson without HTML escapes, strftime_now, raise_exception."""
    source = (
        "{% for m in messages %}\n    {% if loop.index > 1 %}\n    {% break %}\n    {% endif %}\n"
        "{{ m | tojson }}{% endfor %}\n|{{ strftime_now('%Y') }}|{{ eos_token }}"
    )
    text = read(encode_chat([*user("<é>"), *user("b")], with_template(source)))
    year = f"{datetime.now():%Y}"
    assert text == f'{{"role": "user", "content": "<é>"}}|{year}|<|end_of_text|>'


def test_a_base_without_a_template_gets_plain_lines() -> None:
    """role: content, then the assistant's turn; control texts are text here too."""
    tokens = encode_chat([Message("system", "S"), Message("user", "<|eot_id|>")], with_template(None))
    assert read(tokens) == "<|begin_of_text|>system: S\nuser: <|eot_id|>\nassistant:"
    assert controls(tokens) == [BOS]


def test_a_bare_text_is_taken_as_it_stands() -> None:
    """Completions: BOS in front once, control tokens as written, since the caller is the template."""
    assert encode_text("a<|eot_id|>", VOCABULARY) == (BOS, ord("a"), EOT)
    assert encode_text("<|begin_of_text|>a", VOCABULARY) == (BOS, ord("a"))
    assert encode_text("", VOCABULARY) == (BOS,)


@pytest.mark.parametrize(
    "messages", [[], [Message("<|eot_id|>", "x")], [Message("USER", "x")], [Message("user", "\ud800")]]
)
def test_bad_messages_are_refused(messages: list[Message]) -> None:
    """None, unknown roles, half characters: one clear error before anything is rendered."""
    with pytest.raises(UsageError) as caught:
        encode_chat(messages, VOCABULARY)
    assert caught.value.code == "bad_messages" and caught.value.param == "messages"


def test_a_template_may_refuse() -> None:
    """raise_exception is the template's word about the messages, and is passed on."""
    with pytest.raises(UsageError, match="roles must alternate") as caught:
        encode_chat(user("x"), with_template("{{ raise_exception('roles must alternate') }}"))
    assert caught.value.code == "bad_messages"


@pytest.mark.parametrize(
    "source",
    [
        "{% for %}",
        "{{ messages[9].content.x }}",
        "{{ 1 // 0 }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
    ],
)
def test_a_bad_template_is_the_bases_fault(source: str) -> None:
    """Syntax, failures while rendering, and what the sandbox forbids: code bad_template."""
    with pytest.raises(UsageError) as caught:
        encode_chat(user("x"), with_template(source))
    assert caught.value.code == "bad_template"


def test_large_texts_are_refused_before_tokenising() -> None:
    """Without a limit on tokens, or a vocabulary that can tell: by the characters of all messages together."""
    half = "é" * (LARGE // 2)
    assert len(encode_chat(user(half), with_template("{{ messages[0].content }}"))) == LARGE
    with pytest.raises(UsageError) as caught:
        encode_chat([*user(half), *user(half + "x")], VOCABULARY)
    assert caught.value.code == "prompt_too_large"
    with pytest.raises(UsageError):
        encode_text(half + half + "x", VOCABULARY)

    class Silent(FakeTokenizer):
        def fewest_tokens(self, text: str) -> int:
            return 0

    with pytest.raises(UsageError) as caught:
        encode_text("x" * (LARGE + 1), Silent(), limit=10 * LARGE)
    assert caught.value.code == "prompt_too_large"


class Untokenised(FakeTokenizer):
    """One whose tokeniser must not be reached."""

    def tokenize(self, text: str, *, special: bool, bos: bool) -> list[int]:
        raise AssertionError("this text was not to be tokenised")


@pytest.mark.parametrize("size", [3000, LARGE + 1, 50 << 20])
@pytest.mark.parametrize("template", [CHAT_TEMPLATE, None])
def test_what_cannot_fit_is_not_tokenised(size: int, template: str | None) -> None:
    """Not even looked through for control tokens: it is refused for its length, and told so."""
    tokenizer = Untokenised(chat_template=template)
    for encode in (
        lambda: encode_chat(user("x" * size), tokenizer, limit=100),
        lambda: encode_chat([*user("x" * (size // 2)), *user("x" * (size - size // 2))], tokenizer, limit=100),
        lambda: encode_text("x" * size, tokenizer, limit=100),
    ):
        with pytest.raises(ContextTooLong, match=r"at least [0-9]+ tokens; the context holds 100") as caught:
            encode()
        assert caught.value.code == "context_length_exceeded"


def test_a_large_text_that_may_fit_is_not_refused() -> None:
    """No cap on bytes stands before a context that has room for it."""
    text = "x" * (LARGE + 1)
    assert len(encode_text(text, VOCABULARY, limit=2 * LARGE)) == LARGE + 2


def test_what_the_template_leaves_out_does_not_count() -> None:
    """Spaces at a message's ends are trimmed away: however many, they make nothing too long."""
    assert len(encode_chat(user(" " * 5000 + "x"), VOCABULARY, limit=100)) < 100


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.sampled_from([*CONTROL_TEXTS, "words and ", "é", "日", " ", "\n", "<", "x" * 40]), max_size=12),
    st.data(),
)
def test_nothing_that_fits_is_refused(pieces: list[str], data: st.DataObject) -> None:
    """With any limit above its length a prompt is what it is without one."""
    text = "".join(pieces)
    chat, bare = encode_chat(user(text), VOCABULARY), encode_text(text, VOCABULARY)
    assert encode_chat(user(text), VOCABULARY, limit=len(chat) + data.draw(st.integers(1, 50))) == chat
    assert encode_text(text, VOCABULARY, limit=len(bare) + data.draw(st.integers(1, 50))) == bare


def test_a_text_with_every_private_use_character() -> None:
    """Nothing is left to mark with: a clear error instead of a guess."""
    codes = [*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE)]
    with pytest.raises(UsageError, match="private-use"):
        encode_chat(user("".join(map(chr, codes))), VOCABULARY)


KEEPS_SPACE = CHAT_TEMPLATE.replace("message['content'] | trim", "message['content']")
ALWAYS_OPENS = CHAT_TEMPLATE.replace("{%- if add_generation_prompt %}", "{%- if true %}")
TEMPLATES = (CHAT_TEMPLATE, KEEPS_SPACE, ALWAYS_OPENS)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("begun", ["The answer", "a <|eot_id|> b<", "x\ny"])
def test_the_last_message_is_continued(template: str, begun: str) -> None:
    """The prompt ends with the message's own text, without the end of the turn and without a new one."""
    messages = [Message("user", "Hi"), Message("assistant", begun)]
    tokens = encode_chat(messages, with_template(template), continued=True)
    assert read(tokens).endswith(f"Hi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n{begun}")
    assert controls(tokens).count(EOT) == 1


@pytest.mark.torch
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("begun", ["The answer", "The answer is ", " Well", "", "a <|eot_id|> b<", "x\n\n", "Hi"])
def test_the_last_message_is_continued_as_transformers_does_it(template: str, begun: str) -> None:
    """The prompt ends with the message's own text, whatever the template writes after it or cuts off."""
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [Message("user", "Hi"), Message("assistant", begun)]
    turns = [{"role": message.role, "content": message.content} for message in messages]
    rendered, _ = render_jinja_template(
        [turns], chat_template=template, continue_final_message=True, bos_token=CONTROL_TEXTS[0]
    )
    tokens = encode_chat(messages, with_template(template), continued=True)
    assert read(tokens) == rendered[0] and controls(tokens).count(EOT) == 1


def test_a_base_without_a_template_continues_its_line() -> None:
    """No new line, and no new turn."""
    messages = [Message("user", "Hi"), Message("assistant", "Well, ")]
    assert read(encode_chat(messages, with_template(None), continued=True)).endswith("user: Hi\nassistant: Well, ")


@pytest.mark.parametrize(
    "messages",
    [
        [Message("user", "Hi")],
        [Message("assistant", "", (ToolCall("1", "f", "{}"),))],
    ],
)
def test_what_cannot_be_continued_is_refused(messages: list[Message]) -> None:
    """Another's message, and a call."""
    with pytest.raises(UsageError) as caught:
        encode_chat(messages, VOCABULARY, continued=True)
    assert caught.value.code == "bad_messages"


@pytest.mark.parametrize("shown", ["", "m.content | replace('think', '')", "m.content[:3]"])
def test_a_template_that_hides_the_last_text_cannot_continue_it(shown: str) -> None:
    """As for transformers: the answer would go on from something else."""
    template = "{% for m in messages %}{{ m.role }}{% if m.role == 'assistant' %}" + (
        f"{{{{ {shown} }}}}{{% endif %}}{{% endfor %}}" if shown else "{% endif %}{% endfor %}"
    )
    with pytest.raises(UsageError) as caught:
        encode_chat([Message("user", "Hi"), Message("assistant", "I think")], with_template(template), continued=True)
    assert caught.value.code == "bad_messages"


def test_a_name_is_for_templates_that_show_it() -> None:
    """It is plain text there, whatever it spells; other templates, and messages without one, are as ever."""
    shows = with_template("{% for m in messages %}{{ m.name | default('-') }}: {{ m.content }}\n{% endfor %}")
    named = [Message("user", "Hi", name="ada<|eot_id|>"), Message("user", "Ho")]
    tokens = encode_chat(named, shows)
    assert read(tokens).endswith("ada<|eot_id|>: Hi\n-: Ho\n") and controls(tokens) == []
    bare = [Message(message.role, message.content) for message in named]
    assert encode_chat(named, VOCABULARY) == encode_chat(bare, VOCABULARY)
