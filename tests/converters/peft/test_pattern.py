"""pattern: an accepted expression means what it means to `re`, and no expression takes long."""

from __future__ import annotations

import re
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelora_converters.peft.pattern import compile_pattern
from edgelora_converters.peft.pattern_nodes import Budget, PatternError

NAMES = ["model.layers.0.self_attn.q_proj", "model.layers.11.mlp.up_proj", "a.b", "aab", "b-a", "q_proj", ""]
FRAGMENTS = [
    *("a", "b", ".", r"\.", "-", "q_proj", "layers", "model", "0", "(", "(?:", "(?=", "(?!", ")", "|"),
    *("*", "+", "?", "*?", "{2}", "{1,3}", "{0,}", "{,2}", "{", "}", "^", "$", r"\b", r"\d", r"\w", r"\W"),
    *("[ab]", "[^a.]", "[0-9]", "[a-c_]", r"[\w.]", ".*", ".*?"),
]
UNSLOTH = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?"
    r"(?:k_proj|v_proj|q_proj|out_proj|fc1|fc2|o_proj|gate_proj|up_proj|down_proj).*?)"
    r"|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\."
    r"(?:(?:k_proj|v_proj|q_proj|out_proj|fc1|fc2|o_proj|gate_proj|up_proj|down_proj)))"
)


def matches(expression: str, name: str) -> tuple[bool, bool]:
    pattern = compile_pattern(expression)
    return pattern.match(name, Budget(100_000)), pattern.fullmatch(name, Budget(100_000))


@settings(deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=9).map("".join))
def test_agrees_with_re(expression: str) -> None:
    """Where this parser accepts an expression, `re` does too and matches the same names."""
    try:
        mine = [matches(expression, name) for name in NAMES]
    except PatternError:
        return
    with warnings.catch_warnings(action="ignore"):
        theirs = re.compile(expression)
    assert mine == [(bool(theirs.match(name)), bool(theirs.fullmatch(name))) for name in NAMES]


@pytest.mark.parametrize(
    "expression",
    [
        *("q_proj", r"model\.layers\.0\..*", r".*\.(q|v)_proj", r"(?!.*mlp).*proj", UNSLOTH),
        *(
            r"model\.layers\.\d+\.self_attn\.[qkvo]_proj",
            r"(.*\.)?(q_proj|^model\..*up_proj)$",
            r".*layers\.(0|1?1)\..*",
        ),
    ],
)
def test_ordinary_expressions_are_accepted(expression: str) -> None:
    """What trainers write is accepted and agrees with `re`."""
    for name in NAMES:
        assert matches(expression, name) == (bool(re.match(expression, name)), bool(re.fullmatch(expression, name)))


@pytest.mark.parametrize(
    "expression",
    [
        *(
            "(",
            ")",
            "(a",
            "a)",
            "[a",
            "*a",
            "a**",
            "{2}",
            "a{3,2}",
            "a{1}",
            "^*",
            "(?P<n>a)",
            "(?i)a",
            "(?<=a)b",
            "a*+",
        ),
        *(r"\1", r"\A", "\\", r"[b-a]", "[[:a:]]", "[a&&b]", "(" * 40 + ")" * 40, "a" * 3000),
    ],
)
def test_the_rest_is_refused(expression: str) -> None:
    """Invalid and unsupported syntax is a PatternError and not a guess."""
    with pytest.raises(PatternError):
        compile_pattern(expression)


@pytest.mark.parametrize(
    "expression",
    [
        r"(\w+)+!",
        r"(a|a)*(a|a)*(a|a)*!",
        r"(.*)*(.*)*(.*)*!",
        "(((((a*)*)*)*)*)*!",
        "((((((a{99}){99}){99}){99}){99}){99})",
    ],
)
def test_expressions_that_make_re_hang_end(expression: str) -> None:
    """Exponential expressions for a backtracking matcher are answered within the budget."""
    assert matches(expression, "a" * 60) == (False, False)


def test_the_budget_ends_a_costly_match() -> None:
    """Steps are counted over all matches that share a budget."""
    pattern, budget = compile_pattern(r"(\w+)+!"), Budget(300)
    assert not pattern.match("a" * 20, budget)
    with pytest.raises(PatternError, match="too long"):
        for _ in range(100):
            pattern.match("a" * 20, budget)
