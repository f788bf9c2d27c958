"""The same constraint over real vocabularies, llama.cpp's and a folder's: one description serves all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest

from edgelora.backends.base import Vocabulary
from edgelora.backends.llama_cpp.model import Model
from edgelora.backends.llama_cpp.vocabulary import LlamaVocabulary
from edgelora.backends.mlx.vocabulary import FolderVocabulary
from edgelora.core import SamplingParams
from edgelora.guides import TokenGuide, guide
from edgelora.sampling import Sampler
from edgelora_models.builtin import base_gguf, base_hf
from edgelora_models.gguf_base import read_shape
from edgelora_models.gguf_header import read_header
from tests.edgelora.test_guides import PERSON, schema

SHAPE = read_shape(read_header(base_gguf()))
PREFIXES = ["", '{"name": "', '{"name": "Ann", "kind": ', '{"name": "é"']


@pytest.fixture(scope="module", params=["gguf", "folder"])
def vocabulary(request: pytest.FixtureRequest) -> Iterator[Vocabulary]:
    if request.param == "folder":
        pytest.importorskip("tokenizers")
        yield FolderVocabulary(base_hf(), SHAPE.vocab)
        return
    model = Model.load_vocabulary(base_gguf(), shape=SHAPE)
    yield LlamaVocabulary(model)
    model.close()


def held(prefix: str, vocabulary: Vocabulary) -> TokenGuide:
    guide = TokenGuide(schema(PERSON), vocabulary)
    for token in vocabulary.tokenize(prefix, special=False, bos=False):
        guide.accept(token)
    return guide


@pytest.mark.parametrize("prefix", PREFIXES)
def test_masks_hold_what_bytes_say(vocabulary: Vocabulary, prefix: str) -> None:
    """Every allowed token is one that fits byte by byte; control tokens never are; where a token is left out that would
    fit, only one text can follow, and the base's own way to write it is there."""
    guide = held(prefix, vocabulary)
    allowed = set(np.flatnonzero(guide.allowed()).tolist())
    assert allowed and not any(vocabulary.piece(token) == b"" for token in allowed)
    tries = guide._matcher.validate_tokens  # llguidance's other way to say it, one token at a time
    fitting = {token for token in range(vocabulary.size) if vocabulary.piece(token) and tries([token])}
    assert allowed <= fitting and (allowed == fitting or len(allowed) == 1)


@pytest.mark.parametrize("seed", range(3))
def test_what_comes_is_valid(vocabulary: Vocabulary, seed: int) -> None:
    """Noise for logits, the end of texts liked a little: JSON of the schema, to its end."""
    noise = np.random.default_rng(seed)
    sampler = Sampler(SamplingParams(temperature=1.0, seed=seed), (), guide=guide(schema(PERSON), vocabulary))
    liked = [token for token in range(vocabulary.size) if vocabulary.piece(token)[:1] in (b'"', b"}", b",")]
    text = b""
    for _ in range(400):
        logits = noise.normal(0, 1, vocabulary.size).astype(np.float32)
        logits[liked] += 4
        text += vocabulary.piece(sampler.choose(logits))
        if sampler.complete:
            break
    value = json.loads(text)
    assert value["kind"] in PERSON["properties"]["kind"]["enum"] and set(value) <= set(PERSON["properties"])
