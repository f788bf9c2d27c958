"""From settings to what a base is opened with."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import pytest

from edgelora.backends.llama_cpp.backend import LlamaCppBackend
from edgelora.core.config import Settings, read_settings
from edgelora.core.errors import UsageError
from edgelora.core.machine import usable_cores
from edgelora.runtime.opening.open import open_backend, open_tokenizer
from edgelora.runtime.opening.plan import default_weights, plan_setup
from edgelora.store.bases.record import BaseRecord
from edgelora.store.bases.registry import Bases
from edgelora_models.builtin import BASE_NAME, base_gguf


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return read_settings({"EDGELORA_HOME": str(tmp_path)})


@pytest.fixture
def record(settings: Settings) -> BaseRecord:
    return Bases(settings.directories).add(base_gguf(), BASE_NAME)


def test_without_a_word(record: BaseRecord, settings: Settings) -> None:
    """One thread for each core, f16 KV, no more context than the base has, the KV of two contexts."""
    setup = plan_setup(record, settings)
    assert (setup.threads, setup.batch_threads, setup.measured) == (usable_cores(), usable_cores(), False)
    assert (setup.weights, setup.kv_type) == (default_weights(), "f16")
    assert (setup.context_length, setup.kv_tokens) == (record.context_length, 2 * record.context_length)
    assert setup.kv_bytes == setup.kv_tokens * 2 * 2 * 6 * 4 * 32


def test_settings_decide(record: BaseRecord, settings: Settings) -> None:
    """What the person says is what is done, and what is told."""
    asked = replace(settings, threads=3, weights="repacked", kv_type="q8_0", context_length=256)
    setup = plan_setup(record, asked)
    assert (setup.threads, setup.batch_threads, setup.weights, setup.kv_type) == (3, 3, "repacked", "q8_0")
    assert str(setup) == "3 threads, weights repacked; KV q8_0, 1.6 kB a token, 835.6 kB for 512 tokens"
    assert replace(setup, threads=1, measured=True).threads_text == "1 thread, 3 for batches"


@pytest.mark.parametrize(("machine", "weights"), [("x86_64", "mapped"), ("AMD64", "mapped"), ("aarch64", "repacked")])
def test_weights_where_nothing_was_measured(machine: str, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mapped where llama.cpp is as fast from there; its own layout where only that has the fast code."""
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert default_weights() == weights


def test_it_reaches_the_backend(record: BaseRecord, settings: Settings) -> None:
    """The context that is made has these threads, this KV and this many cells."""
    setup = replace(plan_setup(record, replace(settings, context_length=256, kv_type="q8_0")), threads=1)
    backend = open_backend(record, replace(setup, batch_threads=2), settings, None)
    assert isinstance(backend, LlamaCppBackend)
    assert (backend._context.threads, backend._context.batch_threads) == (1, 2)
    assert (backend.capabilities.context_length, backend.capabilities.kv_cells) == (256, 512)
    backend.close()


def test_a_kv_type_nobody_knows() -> None:
    """Refused where the setting is read, with those that there are."""
    with pytest.raises(UsageError, match=r"EDGELORA_KV_TYPE is 'q2_k'\. Set it to f16, f32, q8_0 or q4_0"):
        read_settings({"EDGELORA_KV_TYPE": "q2_k"})
    with pytest.raises(UsageError, match="auto, mapped or repacked"):
        read_settings({"EDGELORA_WEIGHTS": "fast"})


def test_the_vocabulary_alone(record: BaseRecord) -> None:
    """A base's own, without the base."""
    tokenizer = open_tokenizer(record)
    assert tokenizer.size == record.identity.fingerprint.shape.vocab
    assert tokenizer.chat_template == record.identity.chat_template
