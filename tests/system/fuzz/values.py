"""Values nobody should send, as JSON text or as something that json can write."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Raw:
    """JSON text, right or wrong, that is written as it stands."""

    text: str


NUMBERS = (
    *("0", "-0", "1", "-1", "2", "16", "1e0", "0.5", "1.5", "-0.0", "1e-999", "1e308", "1e309", "-1e999", "0x10", "01"),
    *("2147483647", "2147483648", "-2147483649", "9007199254740993", "18446744073709551615", "18446744073709551616"),
    *("-9223372036854775809", "1e1000000", "." * 3, "1.", "+1", "NaN", "Infinity", "-Infinity", "1_000", "９"),
    *("9" * 65, "9" * 400, "9" * 5000, "0." + "0" * 400 + "1", "1e" + "9" * 30),
)
TEXTS = (
    *("", " ", "x", "tiny", "medical-faq", "letters", "no-such-model", "tiny:medical-faq", "medical-faq@1", "a/b:c"),
    *("../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "http://169.254.169.254/", "C:\\con", "nul", "\\\\h\\s"),
    *(
        "<|begin_of_text|>",
        "<|eot_id|>" * 50,
        "{{ 7*7 }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "%s%s%n",
        "\x00",
    ),
    *("\u202e\u200b", "\ufeff", "\uffff", "\U0001f600" * 20, "é" * 100, "A" * 5000, "'; DROP TABLE", "\r\nX-Evil: 1"),
    *("auto", "none", "required", "json_object", "function", "user", "system", "tool", "text", "lora", "adapter"),
)
SURROGATES = (
    '"\\ud800"',
    '"a\\udfffb"',
    '"\\ude00\\ud83d"',
    '"\\ud83d\\ude00"',
    '"\\u0000"',
    '"\\uZZZZ"',
    '"\\x"',
    '"\n"',
)
SCHEMAS = (
    '{"type":"string","maxLength":20000}',
    '{"type":"array","maxItems":1000000}',
    '{"$ref":"#"}',
    '{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/a"}}}',
    '{"pattern":"' + "(" * 300 + '"}',
    '{"type":"object","properties":{"a":{"not":{}}}}',
    '{"enum":[]}',
    '{"allOf":[{"type":"string"},{"type":"integer"}]}',
    "true",
    '{"type":"nonsense"}',
)


def nasty(random_: random.Random) -> object:
    """One value: a number, a text, a container, a schema or what is no JSON at all."""
    match random_.randrange(10):
        case 0 | 1 | 2:
            return Raw(random_.choice(NUMBERS))
        case 3 | 4:
            return random_.choice(TEXTS)
        case 5:
            return Raw(random_.choice(SURROGATES))
        case 6:
            return random_.choice([None, True, False, [], {}, [None], {"": None}, [[]], [[], {}]])
        case 7:
            return nested(random_)
        case 8:
            return Raw(random_.choice(SCHEMAS))
        case _:
            return [nasty(random_) for _ in range(random_.randrange(4))]


def nested(random_: random.Random) -> Raw:
    """Arrays or objects in each other, about as deep as is allowed, far deeper, or never closed."""
    depth = random_.choice([10, 60, 63, 64, 65, 200, 20_000])
    if random_.random() < 0.5:
        return Raw("[" * depth + "]" * random_.choice([depth, depth, depth - 1, 0]))
    return Raw('{"a":' * depth + "1" + "}" * random_.choice([depth, depth, depth - 1, 0]))
