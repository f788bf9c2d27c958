"""A home written by commit d45f3c4, before the files moved, works unchanged: its store, keys, prefixes and tuning.

The archive holds a base of 110 kB, an adapter `demo` in two versions with the alias `champion` on the first, a named
prefix of the second, an API key, and what `edgelora tune` measured. The answers below are that commit's own.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edgelora.core.config import Settings, read_settings
from edgelora.core.request import AdapterUse
from edgelora.core.sampling_params import SamplingParams
from edgelora.runtime.service import Service
from edgelora.runtime.tuning.record import Tunings
from edgelora.store.keys.api_key import digest
from edgelora.store.keys.key_ring import KeyRing
from edgelora.store.library import Library, open_library
from edgelora.store.prefixes.file_format import unseal
from edgelora.store.prefixes.origin import Origin
from edgelora.text.prompt import Message
from edgelora.text.system_prefix import system_prefix

HOME = Path(__file__).with_name("home-d45f3c4.zip")
SYSTEM = "You are terse. " * 8
ANSWERS = {
    "demo@1": ["\ufffd\ufffd&\ufffdRP\ufffdvP\ufffd\u056d", "\ufffdR=\u0002vP0V\ufffd}\ufffd"],
    "demo@champion": ["\ufffd\ufffd&\ufffdRP\ufffdvP\ufffd\u056d", "\ufffdR=\u0002vP0V\ufffd}\ufffd"],
    "demo@2": ["\u0007", "\u0002\u0003\u0708CCCCE"],
    "demo": ["\u0007", "\u0002\u0003\u0708CCCCE"],
    "tiny": ["\ufffd\u0362\ufffd\ufffd\ufffd\ufffdQ4\ufffd>w", ",\u001aL\ufffd\ufffda/~\u0007\ufffd\ufffd\ufffd"],
}
"""By model id: twelve greedy tokens on "Hi" and on "What is 42?"."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The archive unpacked, with its base where the record says it is."""
    home = tmp_path / "home"
    with zipfile.ZipFile(HOME) as archive:
        archive.extractall(home)
    record = home / "data" / "bases" / "tiny.json"
    fields = msgspec.json.decode(record.read_bytes())
    base = Path(fields["location"].replace("{HOME}", str(home)))
    record.write_bytes(msgspec.json.encode(fields | {"location": str(base)}))
    os.utime(base, ns=(fields["stamp"]["mtime_ns"],) * 2)
    return home


@pytest.fixture
def settings(home: Path) -> Settings:
    return read_settings({"EDGELORA_HOME": str(home), "EDGELORA_THREADS": "1", "EDGELORA_OFFLINE": "1"})


@pytest.fixture
def library(settings: Settings) -> Library:
    return open_library(settings)


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    with Service.open(settings) as service:
        yield service


def test_every_version_answers_as_it_did(service: Service) -> None:
    """Base, versions and alias resolve, the stored conversions are run as they are, and the tokens are the same."""
    greedy = SamplingParams(max_tokens=12)
    for model, answers in ANSWERS.items():
        for prompt, answer in zip(("Hi", "What is 42?"), answers, strict=True):
            adapters = [AdapterUse(ref)] if (ref := service.resolve(model)) else []
            stream = service.chat([Message("user", prompt)], adapters=adapters, sampling=greedy)
            assert stream.text() == answer, (model, prompt)


def test_nothing_is_converted_again(settings: Settings, home: Path) -> None:
    """The versions' conversions are those of the archive."""
    before = {path: path.stat().st_mtime_ns for path in (home / "data" / "conversions").rglob("*") if path.is_file()}
    with Service.open(settings) as service:
        assert service.resolve("demo@1") is not None
    after = {path: path.stat().st_mtime_ns for path in (home / "data" / "conversions").rglob("*") if path.is_file()}
    assert {path: after.get(path) for path in before} == before


def test_the_key_lets_in(home: Path) -> None:
    """By the secret's sha256, with the limit it was made with."""
    key = KeyRing(home).find([digest(b"sk-edgelora-example")], now=0.0)
    assert key is not None and (key.name, key.requests_per_minute) == ("app", 60)


def test_the_prefix_is_whole_and_of_the_same_origin(settings: Settings, library: Library, home: Path) -> None:
    """It is listed by name, its folder is named by the digest of its origin, and its bytes are believed."""
    (entry,) = library.prefixes().entries()
    assert (entry.held.stored.name, entry.held.stored.length) == ("terse", 139)
    (file,) = home.glob("cache/prefixes/groups/*/origin.json")
    origin = msgspec.json.decode(file.read_bytes(), type=Origin)
    assert origin.group == file.parent.name
    with Service.open(settings) as service:
        tokens = system_prefix(SYSTEM, service.tokenizer)
    assert len(tokens) == 139
    assert hashlib.sha256(unseal(entry.held.stored.path, origin, tokens).data).hexdigest()


def test_saved_kv_is_of_the_same_methods(service: Service) -> None:
    """The name of what adds the adapters is part of a prefix's origin, whatever the class is called today."""
    names = {"CompiledHookMethod", "HookMethod", "NativeMethod"}
    facts = dict(fact.split(" ", 1) for fact in service.engine.kv_identity.split("; "))
    assert facts["adapters"] in names


def test_what_was_measured_is_read(library: Library) -> None:
    """A tuning is found by what the base is, wherever it stands."""
    tuning = Tunings(library.settings.directories).get(library.bases.get("tiny"))
    assert tuning is not None and (tuning.threads, tuning.batch_threads, tuning.weights) == (1, 2, "mapped")


def test_every_variable_is_still_read() -> None:
    """The environment of a running configuration."""
    environ = {
        "EDGELORA_OFFLINE": "1",
        "EDGELORA_API_KEY": "k",
        "EDGELORA_CONTEXT": "100",
        "EDGELORA_SEQUENCES": "3",
        "EDGELORA_QUEUE": "4",
        "EDGELORA_ADAPTER_MEMORY": "5",
        "EDGELORA_PREFIX_DISK": "6",
        "EDGELORA_UPLOAD_DISK": "7",
        "EDGELORA_THREADS": "8",
        "EDGELORA_WEIGHTS": "repacked",
        "EDGELORA_KV_TYPE": "q8_0",
        "EDGELORA_PIN": "a, b",
        "EDGELORA_KERNEL": "numpy",
        "EDGELORA_MEMORY_CHECK": "off",
        "EDGELORA_BACKEND": "mlx",
        "EDGELORA_SPECULATE": "off",
    }
    settings = read_settings(environ)
    assert (settings.offline, settings.api_key, settings.context_length, settings.max_sequences) == (True, "k", 100, 3)
    assert (settings.max_queue, settings.adapter_budget_bytes >> 20, settings.prefix_disk_bytes >> 20) == (4, 5, 6)
    assert (settings.upload_disk_bytes >> 20, settings.threads, settings.weights) == (7, 8, "repacked")
    assert (settings.kv_type, settings.pins, settings.kernel) == ("q8_0", ("a", "b"), "numpy")
    assert (settings.memory_check, settings.backend, settings.speculate) == ("off", "mlx", "off")
