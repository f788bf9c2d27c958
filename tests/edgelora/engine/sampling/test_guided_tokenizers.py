"""The same constraint over real vocabularies, llama.cpp's and a folder's: one description serves all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from edgelora.backends.llama_cpp.model import Model
from edgelora.backends.llama_cpp.tokenizer import LlamaTokenizer
from edgelora.backends.mlx.tokenizer import FolderTokenizer
from edgelora.core.sampling_params import SamplingParams
from edgelora.core.tokenizer import Tokenizer
from edgelora.engine.sampling.guided_decoding import GuidedDecoder, guided_decoder
from edgelora.engine.sampling.sampler import Sampler
from edgelora_models.builtin import base_gguf, base_hf
from edgelora_models.gguf_base import read_shape
from edgelora_models.gguf_header import read_header
from tests.edgelora.engine.sampling.test_guided_decoding import PERSON, schema

SHAPE = read_shape(read_header(base_gguf()))
PREFIXES = ["", '{"name": "', '{"name": "Ann", "kind": ', '{"name": "é"']


@pytest.fixture(scope="module", params=["gguf", "folder"])
def tokenizer(request: pytest.FixtureRequest) -> Iterator[Tokenizer]:
    if request.param == "folder":
        pytest.importorskip("tokenizers")
        yield FolderTokenizer(base_hf(), SHAPE.vocab)
        return
    model = Model.load_vocabulary(base_gguf(), shape=SHAPE)
    yield LlamaTokenizer(model)
    model.close()


def held(prefix: str, tokenizer: Tokenizer) -> GuidedDecoder:
    guided_decoder = GuidedDecoder(schema(PERSON), tokenizer)
    for token in tokenizer.tokenize(prefix, special=False, bos=False):
        guided_decoder.accept(token)
    return guided_decoder


@pytest.mark.parametrize("prefix", PREFIXES)
def test_masks_hold_what_bytes_say(tokenizer: Tokenizer, prefix: str) -> None:
    """Every allowed token is one that fits byte by byte; control tokens never are; where a token is left out that would
    fit, only one text can follow, and the base's own way to write it is there."""
    guided_decoder = held(prefix, tokenizer)
    allowed = set(np.flatnonzero(guided_decoder.allowed()).tolist())
    assert allowed and not any(tokenizer.piece(token) == b"" for token in allowed)
    tries = guided_decoder._matcher.validate_tokens  # llguidance's other way to say it, one token at a time
    fitting = {token for token in range(tokenizer.size) if tokenizer.piece(token) and tries([token])}
    assert allowed <= fitting and (allowed == fitting or len(allowed) == 1)


@pytest.mark.parametrize("seed", range(3))
def test_what_comes_is_valid(tokenizer: Tokenizer, seed: int) -> None:
    """Noise for logits, the end of texts liked a little: JSON of the schema, to its end."""
    noise = np.random.default_rng(seed)
    sampler = Sampler(
        SamplingParams(temperature=1.0, seed=seed), (), guided_decoder=guided_decoder(schema(PERSON), tokenizer)
    )
    liked = [token for token in range(tokenizer.size) if tokenizer.piece(token)[:1] in (b'"', b"}", b",")]
    text = b""
    for _ in range(400):
        logits = noise.normal(0, 1, tokenizer.size).astype(np.float32)
        logits[liked] += 4
        text += tokenizer.piece(sampler.choose(logits))
        if sampler.complete:
            break
    value = json.loads(text)
    assert value["kind"] in PERSON["properties"]["kind"]["enum"] and set(value) <= set(PERSON["properties"])
