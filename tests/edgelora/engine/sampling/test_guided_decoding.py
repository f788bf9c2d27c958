"""Held to a constraint: every token the mask allows, and no other; no schema crashes, hangs, or frees the answer."""

from __future__ import annotations

import json
import pickle
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora.core.errors import BackendError, UsageError
from edgelora.core.sampling_params import Constraint, SamplingParams
from edgelora.engine.sampling.guided_decoding import GuidedDecoder, guided_decoder
from edgelora.engine.sampling.sampler import Sampler
from edgelora.text.schema_grammar import ANY_OBJECT, MAX_CALLS, of_call_or_answer, of_calls, of_schema
from edgelora.text.tools import Tool
from tests.support.fake_backend.tokenizer import EOS, EOT, FakeTokenizer

VOCABULARY = FakeTokenizer()
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "kind": {"enum": ["a", "bc"]}},
    "required": ["name", "kind"],
    "additionalProperties": False,
}


def schema(value: Any) -> Constraint:
    return of_schema(value, param="response_format")


def held(constraint: Constraint, text: str = "") -> GuidedDecoder:
    guided_decoder = GuidedDecoder(constraint, VOCABULARY)
    for byte in text.encode():
        assert guided_decoder.allowed()[byte], f"{chr(byte)!r} is forbidden in {text!r}"
        guided_decoder.accept(byte)
    return guided_decoder


def accepts(constraint: Constraint, text: str) -> bool:
    """Whether the text may be an answer, byte by byte and to its end."""
    guided_decoder = GuidedDecoder(constraint, VOCABULARY)
    for byte in text.encode():
        if guided_decoder.complete or not guided_decoder.allowed()[byte]:
            return False
        guided_decoder.accept(byte)
    return guided_decoder.complete or bool(guided_decoder.allowed()[EOT])


def written(constraint: Constraint, seed: int, *, most: int = 400) -> tuple[str, bool]:
    """What a model that knows nothing writes, and whether it came to an end. Brackets and quotes that end are liked."""
    noise = np.random.default_rng(seed)
    sampler = Sampler(
        SamplingParams(temperature=1.0, seed=seed), (), guided_decoder=guided_decoder(constraint, VOCABULARY)
    )
    text = bytearray()
    while len(text) < most:
        logits = noise.normal(0, 2, VOCABULARY.size).astype(np.float32)
        logits[[*b'"}],:', EOS, EOT]] += 4
        token = sampler.choose(logits)
        if token in VOCABULARY.end_ids:
            return text.decode(), True
        text.append(token)
        if sampler.complete:
            return text.decode(), True
    return text.decode(errors="replace"), False


def test_no_constraint_no_guide() -> None:
    """Where nothing is asked for nothing is made, and the library is not even loaded by the sampler's module."""
    assert guided_decoder(None, VOCABULARY) is None


def test_a_constraint_is_a_value() -> None:
    """It crosses processes, and two of the same schema are the same."""
    constraint = schema(PERSON)
    assert pickle.loads(pickle.dumps(constraint)) == constraint == schema(dict(PERSON))


@pytest.mark.parametrize("prefix", ["", '{"name": "A\\', '{"name":"x","kind": "b'])
def test_a_mask_is_what_may_come_token_by_token(prefix: str) -> None:
    """The slow reference: each token tried alone on a guide of its own."""
    allowed = held(schema(PERSON), prefix).allowed()
    assert allowed.shape == (VOCABULARY.size,) and allowed.any()
    for token in range(VOCABULARY.size):
        try:
            held(schema(PERSON), prefix).accept(token)
        except UsageError:
            assert not allowed[token], token
        else:
            assert allowed[token], token


def test_the_end_is_allowed_where_the_answer_may_end() -> None:
    """Every end token of the vocabulary, and no other control token; not before the text is whole."""
    guided_decoder = held(schema({"type": "integer"}), "12")
    assert (
        set(np.flatnonzero(guided_decoder.allowed()).tolist()) == {EOS, EOT, *b"0123456789"}
        and not guided_decoder.complete
    )
    assert not held(schema({"type": "integer"}), "-").allowed()[[EOS, EOT]].any()
    assert held(schema({"type": "object", "additionalProperties": False}), "{}").complete


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1 << 30))
def test_what_comes_is_valid(seed: int) -> None:
    """Whatever the logits: an answer that came to its end is JSON of the schema."""
    text, ended = written(schema(PERSON), seed)
    if ended:
        value = json.loads(text)
        assert isinstance(value["name"], str) and value["kind"] in ("a", "bc")
        assert isinstance(value.get("age", 0), int) and set(value) <= {"name", "age", "kind"}


def test_any_object_is_an_object() -> None:
    """json_object: an object of anything, and nothing else."""
    assert accepts(schema(ANY_OBJECT), '{"a": [1, {"b": null}], "é": "\\n"}')
    assert not accepts(schema(ANY_OBJECT), "[1]") and not accepts(schema(ANY_OBJECT), '{"a": }')


@pytest.mark.parametrize(
    ("name", "again"),
    [
        ("a", "a"), ("a", "\\u0061"), ("é", "\\u00e9"), ("a/b", "a\\/b"), ("a\nb", "a\\nb"), ("a\nb", "a\\u000ab"),
        ('a"b', 'a\\"b'), ('a"b', "a\\u0022b"), ("\\", "\\\\"), ("\\", "\\u005c"),
    ],
)  # fmt: skip
def test_a_property_cannot_come_twice(name: str, again: str) -> None:
    """However its name is spelled: the later one would count, and it need not obey."""
    open_schema = schema({"type": "object", "properties": {name: {"type": "integer"}}, "required": [name]})
    once = json.dumps({name: 1}, ensure_ascii=False)
    assert json.loads(f'["{again}"]') == [name]
    assert accepts(open_schema, once) and not accepts(open_schema, f'{once[:-1]}, "{again}": "x"}}')


def test_spaces_come_to_an_end() -> None:
    """Indented text is fine; a model that would write nothing but spaces is not let."""
    assert accepts(schema(PERSON), json.dumps({"name": "x", "kind": "a"}, indent=4))
    assert accepts(schema(PERSON), json.dumps({"name": "x", "kind": "a"}))
    for waste in ("  ", "\n\n", "\n" + " " * 33):
        assert not accepts(schema(PERSON), "{" + waste + '"name": "x", "kind": "a"}')


CLOSED = {"type": "object", "additionalProperties": False}
LONG = 20_000
DEEP: dict[str, Any] = {}
for _ in range(300):
    DEEP = {"type": "object", "properties": {"a": DEEP}}
MANY = {f"p{n}": {"type": "string"} for n in range(500)}

HONOURED: list[tuple[dict[str, Any], str, str]] = [
    *[({"type": "string", "maxLength": n}, '"ok"', '"' + "x" * 3 + '"x') for n in (500, 1200, 17_000, LONG, 10**6)],
    *[({"type": "array", "maxItems": n}, "[1, 2]", "[1, 2] ,") for n in (500, 1200, 17_000, LONG, 10**6)],
    ({"type": "string", "maxLength": 2}, '"ab"', '"abc"'),
    ({"type": "array", "maxItems": 2}, "[1, 2]", "[1, 2, 3]"),
    ({"type": "string", "pattern": "^+[a-z]$"}, '"q"', '"qq"'),
    ({"type": "string", "pattern": "^hello there indeed\\!$"}, '"hello there indeed!"', '"hello"'),
    ({"type": "object", "minProperties": 1}, '{"a": 1}', "{}"),
    ({**CLOSED, "properties": MANY}, '{"p7": "x"}', '{"q": "x"}'),
]  # fmt: skip

REFUSED: list[tuple[Any, str]] = [
    ({"type": "string", "pattern": "(" * 60_000 + ")" * 60_000}, "pattern"),
    (DEEP, "nested deeper"),
    ({"not": {"type": "string"}}, "not"),
    ({"type": "string", "maxLength": 10**30}, "maxLength"),
    ({"type": "object", "properties": MANY | {"one": {}}}, "500 properties"),
    ({"type": "object", "properties": {f"p{n}": {} for n in range(2000)}}, "500 properties"),
    ({"enum": ["x" * (256 << 10)]}, "characters"),
    ({"x-guidance": {"lenient": True}, "not": {}}, "x-guidance"),
    ({"properties": {"a": {"x-guidance": {}}}}, "x-guidance"),
    ({"$ref": "#"}, "schema"),
    ({"$ref": "https://example.com/schema.json"}, "retriev"),
    ({"$ref": "#/$defs/nowhere"}, "nowhere"),
    ({"type": "string", "pattern": "(?=a)b"}, "look"),
    ({"type": "string", "pattern": "[a"}, "class"),
    ({"type": "string", "format": "unheard-of"}, "unheard-of"),
    ({"oneOf": [{"type": "string"}, {"minLength": 1, "type": "string"}]}, "oneOf"),
    ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum"),
    ({"enum": []}, "empty"),
    ({"uniqueItems": True}, "uniqueItems"),
    ({"type": "object", "minProperties": 2}, "minProperties"),
    (True, "object"),
    ("x", "object"),
    (None, "object"),
]


@pytest.mark.parametrize(("asked", "good", "bad"), HONOURED)
def test_schemas_that_break_others_are_honoured(asked: dict[str, Any], good: str, bad: str) -> None:
    """Compiled, and still binding: what the schema forbids cannot be written."""
    assert accepts(schema(asked), good) and not accepts(schema(asked), bad)


@pytest.mark.parametrize(("asked", "why"), REFUSED)
def test_schemas_that_cannot_be_held_to_are_refused(asked: Any, why: str) -> None:
    """One error with the reason in it; never an answer that is freer than it was asked to be."""
    with pytest.raises(UsageError) as caught:
        GuidedDecoder(schema(asked), VOCABULARY)
    assert caught.value.code == "unsupported_schema" and why in caught.value.what
    assert len(caught.value.what) < 500


def test_a_pattern_that_grows_too_costly_ends_the_answer() -> None:
    """What is found out only on the way is an error too: the answer fails, and is not set free."""
    costly = schema({"type": "string", "pattern": "^(a|b|[c-x]{1,500}|(foo|bar)*){1,300}$"})
    guided_decoder, random = GuidedDecoder(costly, VOCABULARY), Random(2)
    guided_decoder.accept(ord('"'))
    with pytest.raises(UsageError) as caught:
        for _ in range(400):
            guided_decoder.accept(
                random.choice([token for token in np.flatnonzero(guided_decoder.allowed()[:256]) if token != ord('"')])
            )
    assert caught.value.code == "unsupported_schema"


def test_a_base_without_an_end_token() -> None:
    """It could not end a text where that is all it may do: refused, not let run on."""

    class Endless(FakeTokenizer):
        end_ids = frozenset[int]()

    with pytest.raises(UsageError) as caught:
        GuidedDecoder(schema(PERSON), Endless())
    assert caught.value.code == "unsupported_schema"


def test_logits_that_forbid_all_that_is_allowed_are_an_error() -> None:
    """The mask comes first and stays: where nothing of it is left there is no token."""
    sampler = Sampler(
        SamplingParams(logit_bias=((ord("{"), -100.0),)),
        (),
        guided_decoder=guided_decoder(schema(ANY_OBJECT), VOCABULARY),
    )
    logits = np.zeros(VOCABULARY.size, np.float32)
    assert sampler.choose(logits) == ord("{")
    forbidding = np.full(VOCABULARY.size, -np.inf, np.float32)
    forbidding[ord("x")] = 1.0
    with pytest.raises(BackendError) as caught:
        Sampler(SamplingParams(), (), guided_decoder=guided_decoder(schema(ANY_OBJECT), VOCABULARY)).choose(forbidding)
    assert caught.value.code == "bad_logits"


WEATHER = Tool(
    "weather", json.dumps({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]})
)
CLOCK = Tool("clock", json.dumps({"type": "object", "properties": {}, "additionalProperties": False}))
ONE = '{"name": "weather", "parameters": {"city": "Bern"}}'
TWO = '{"name": "clock", "parameters": {}}'


def test_calls_are_of_the_functions_alone() -> None:
    """Llama's form with each function's own schema; several with "; " between, and not without end."""
    one, several = of_calls([WEATHER, CLOCK], several=False), of_calls([WEATHER, CLOCK], several=True)
    for text in (ONE, TWO):
        assert accepts(one, text) and accepts(several, text)
    assert not accepts(one, f"{ONE}; {TWO}") and accepts(several, f"{ONE}; {TWO}; {ONE}")
    assert accepts(several, "; ".join([TWO] * MAX_CALLS)) and not accepts(several, "; ".join([TWO] * (MAX_CALLS + 1)))
    for text in ("Sunny.", '{"name": "wind", "parameters": {}}', '{"name": "weather", "parameters": {}}', "{}"):
        assert not accepts(several, text)


def test_calls_or_an_answer_of_a_schema() -> None:
    """Where a call may be made and the answer has a form, it is one of the two."""
    either = of_call_or_answer([WEATHER, CLOCK], PERSON, param="response_format")
    assert accepts(either, ONE) and accepts(either, TWO) and accepts(either, '{"name": "Ann", "kind": "a"}')
    assert not accepts(either, '{"name": "Ann"}') and not accepts(either, "Hello")
    assert not accepts(either, '{"name": "weather", "parameters": {}}')


def test_definitions_stay_each_function_s_own() -> None:
    """A reference within a function's schema means that schema, wherever it stands in the grammar."""
    own = {**CLOSED, "$defs": {"k": {"type": "integer"}}, "properties": {"k": {"$ref": "#/$defs/k"}}}
    other = {**own, "$defs": {"k": {"type": "null"}}}
    tools = [CLOCK, Tool("f", json.dumps(own)), Tool("g", json.dumps(other))]
    for calls in (of_calls(tools, several=False), of_call_or_answer(tools, other, param="response_format")):
        assert accepts(calls, '{"name": "f", "parameters": {"k": 5}}')
        assert accepts(calls, '{"name": "g", "parameters": {"k": null}}')
        assert not accepts(calls, '{"name": "f", "parameters": {"k": null}}')
