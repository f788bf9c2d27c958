"""Bodies for every route: what would be right there, and what becomes of that."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence

from tests.system.fuzz.values import Raw, nasty

_MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}

CHAT: dict[str, object] = {"model": "medical-faq", "messages": _MESSAGES, "max_tokens": 8}
GENERATION: dict[str, object] = {
    "stream": True,
    "stream_options": {"include_usage": True},
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.1,
    "repeat_penalty": 1.1,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "logit_bias": {"5": -100},
    "logprobs": True,
    "top_logprobs": 2,
    "seed": 7,
    "n": 2,
    "stop": ["x", "y"],
    "user": "somebody",
    "adapters": [{"name": "medical-faq", "weight": 0.5}],
    "tools": [_TOOL],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}},
    "echo": False,
    "suffix": "",
    "best_of": 1,
    "adapter_id": "medical-faq",
    "min_tokens": 2,
    "ignore_eos": True,
    "stop_token_ids": [5],
    "include_stop_str_in_output": True,
    "repetition_penalty": 1.1,
    "repeat_last_n": -1,
    "n_predict": 8,
    "continue_final_message": True,
    "service_tier": "flex",
}
RIGHT: Mapping[str, dict[str, object]] = {
    "/chat/completions": CHAT,
    "/completions": {"model": "tiny", "prompt": "Hello", "max_tokens": 8},
    "/responses": {"model": "medical-faq", "input": "Hi", "max_output_tokens": 8},
    "/input_tokens": {"model": "tiny", "messages": _MESSAGES, "input": "Hi"},
    "/tokenize": {"model": "tiny", "prompt": "Hello", "with_pieces": True},
    "/detokenize": {"model": "tiny", "tokens": [1, 2, 3]},
    "/embeddings": {"model": "tiny", "input": "Hello"},
    "/fine_tunings": {"input_file_id": "file_x", "name": "a", "type": "lora", "base_model": "tiny"},
    "/adapters": {"name": "a", "source": "hf:org/repo", "token": "t"},
    "/models": {"model_name": "a", "model_source": "x/y", "model_type": "adapter", "base_model": "tiny"},
    "/load_lora_adapter": {"lora_name": "a", "lora_path": "a"},
    "/unload_lora_adapter": {"lora_name": "medical-faq"},
}
"""By how a route's template ends. A route that is not here gets the names of all of them."""

_NAMES = sorted({name for body in (*RIGHT.values(), GENERATION) for name in body})


def body_of(template: str, random_: random.Random) -> dict[str, object]:
    """A body that the route might take, with some of the optional fields."""
    ends = [ending for ending in RIGHT if template.endswith(ending)]
    if not ends:
        return {name: nasty(random_) for name in random_.sample(_NAMES, 3)}
    body = dict(RIGHT[max(ends, key=len)])
    for name in random_.sample(sorted(GENERATION), random_.choice([0, 0, 1, 3])):
        body[name] = GENERATION[name]
    return body


def mutated(body: object, random_: random.Random) -> object:
    """One place in it replaced, dropped, doubled or added."""
    if isinstance(body, dict) and body and random_.random() < 0.9:
        body = dict(body)
        name = random_.choice(sorted(body))
        match random_.randrange(5):
            case 0:
                del body[name]
            case 1:
                body[random_.choice(_NAMES)] = nasty(random_)
            case 2:
                return Raw(f"{written(body)[:-1]},{json.dumps(name)}:{written(nasty(random_))}}}")
            case _:
                body[name] = mutated(body[name], random_)
        return body
    if isinstance(body, list) and body and random_.random() < 0.7:
        body = list(body)
        at = random_.randrange(len(body))
        body[at] = mutated(body[at], random_)
        return body * random_.choice([1, 1, 1, 2, 50])
    return nasty(random_)


def written(value: object) -> str:
    """JSON, but for the `Raw` in it."""
    if isinstance(value, Raw):
        return value.text
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{json.dumps(name)}:{written(item)}" for name, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(map(written, value)) + "]"
    return json.dumps(value)


def form_of(random_: random.Random) -> tuple[str, bytes]:
    """An upload, right or wrong: its content type and its bytes."""
    boundary = random_.choice(["x", "----b", "b" * 70, "b" * 300, "", 'a"b', "é"])
    file = b'Content-Disposition: form-data; name="file"; filename="a.zip"\r\nContent-Type: application/zip\r\n\r\n'
    parts = [b'Content-Disposition: form-data; name="purpose"\r\n\r\nfine_tuning', file + b"PK\x05\x06"]
    odd = [
        b"",
        b'Content-Disposition: form-data; name="file"; filename="../../x"\r\n\r\nx',
        b"Content-Disposition: form-data\r\n\r\nx",
        b'Content-Disposition: form-data; name="' + b"n" * 9000 + b'"\r\n\r\nx',
        b"X: " + b"y" * 20_000 + b"\r\n\r\nx",
        b"Content-Disposition: form-data; name=\"file\"; filename*=utf-8''%ff\r\n\r\n" + b"\xff" * 100,
        b'Content-Disposition: form-data; name="purpose"\r\n\r\n' + b"p" * 100_000,
    ]
    some = random_.sample(parts + odd, random_.randrange(5))
    chosen = some if random_.random() < 0.7 else parts * random_.choice([1, 1, 300])
    mark = b"--" + boundary.encode("latin-1")
    body = b"".join(mark + b"\r\n" + part + b"\r\n" for part in chosen)
    end = random_.choice([mark + b"--\r\n", mark + b"--\r\n", b"", mark])
    return f"multipart/form-data; boundary={boundary}", body + end
