"""Prefixes with the real base: the same answers after a restart, over HTTP too, and never another's KV."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgelora.core.config import Settings, read_settings
from edgelora.core.events import Finished, TextDelta
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.prefix_cache.cache import PrefixCache
from edgelora.engine.stream import Stream
from edgelora.runtime.service import Service
from edgelora.text.prompt import Message
from edgelora.text.system_prefix import system_prefix
from edgelora_models import builtin
from tests.support.server import serving

SYSTEM = "You are the assistant of a small clinic by the sea. Answer shortly, kindly and in plain words. " * 4
QUESTIONS = ("What is hypertension?", "What is asthma?", "What is a fever?")
GREEDY = SamplingParams(temperature=0.0, max_tokens=24)


@pytest.fixture
def home(tmp_path: Path, home: Path) -> Path:
    """Bases and adapters of the shared home, prefixes of its own."""
    own = tmp_path / "own"
    shutil.copytree(home, own, ignore=shutil.ignore_patterns("prefixes"))
    return own


@pytest.fixture
def opened(home: Path) -> Iterator[Callable[..., Service]]:
    """Services one after the other: a restart is to call it again."""
    services: list[Service] = []

    def begin(**environ: str) -> Service:
        while services:
            services.pop().close()
        services.append(Service.open(settings_of(home, **environ)))
        return services[0]

    yield begin
    while services:
        services.pop().close()


def settings_of(home: Path, **environ: str) -> Settings:
    given = {"EDGELORA_HOME": str(home), "EDGELORA_OFFLINE": "1", "EDGELORA_THREADS": "1"}
    return read_settings(given | environ)


def chat(service: Service, question: str, adapter: str | None = "medical-faq", system: str = SYSTEM) -> Stream:
    uses = service.compose(adapter) if adapter else ()
    return service.chat([Message("system", system), Message("user", question)], adapters=uses, sampling=GREEDY)


def answer(stream: Stream) -> tuple[str, int]:
    *texts, last = stream
    assert isinstance(last, Finished), last
    return "".join(event.text for event in texts if isinstance(event, TextDelta)), last.usage.cached_tokens


def test_the_same_answers_after_a_restart(opened: Callable[..., Service]) -> None:
    """Token by token, restored from disk in a batch with others, as computed by a service that knows no prefixes."""
    fresh = opened(EDGELORA_PREFIX_DISK="0")
    names = ("medical-faq", "pirate", None)
    expected = {(q, name): answer(chat(fresh, q, name))[0] for q in QUESTIONS for name in names}
    assert len(set(expected.values())) >= 6
    first = opened()
    for question in QUESTIONS[:2]:
        for name in names:
            assert answer(chat(first, question, name))[0] == expected[question, name]
    second = opened()
    others = [second.complete("Once upon a time", sampling=GREEDY) for _ in range(2)]
    streams = {(q, name): chat(second, q, name) for q in QUESTIONS for name in names}
    answers = {asked: answer(stream) for asked, stream in streams.items()}
    for other in others:
        answer(other)
    assert {asked: text for asked, (text, _) in answers.items()} == expected
    length = len(system_prefix(SYSTEM, second.tokenizer))
    assert length > 64
    assert all(cached >= length for _, cached in answers.values())


def test_over_http_after_a_restart(home: Path) -> None:
    """`cached_tokens` says that the system prompt was not computed; a client sees nothing else of it."""
    body = {
        "model": "medical-faq",
        "max_tokens": 8,
        "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTIONS[0]}],
    }

    def start(times: int) -> list[tuple[str, int]]:
        with Service.open(settings_of(home)) as service, serving(service) as server:
            replies = [server.post("/v1/chat/completions", body).json for _ in range(times)]
        return [
            (r["choices"][0]["message"]["content"], r["usage"]["prompt_tokens_details"]["cached_tokens"])
            for r in replies
        ]

    (first, cold), (second, _) = start(2)
    ((third, restored),) = start(1)
    assert first == second == third
    assert cold == 0 and restored > 64


def cached(service: Service, adapter: str | None = "medical-faq") -> int:
    return answer(chat(service, QUESTIONS[2], adapter))[1]


def keep(service: Service, adapter: str | None = "medical-faq") -> None:
    for question in QUESTIONS[:2]:
        answer(chat(service, question, adapter))


def test_another_adapter_version_computes(opened: Callable[..., Service], home: Path) -> None:
    """A new version of the same name, with real files; the old one by its number still has its prefix."""
    keep(opened())
    service = opened()
    other = builtin.adapters()["pirate"]
    service.library.store.add(other, name="medical-faq", base=service.base)
    assert cached(service) == 0
    assert cached(opened(), "medical-faq@1") > 64


def test_another_base_computes(opened: Callable[..., Service], home: Path) -> None:
    """The same header, size and modification time, and one weight that differs: put in the base's place."""
    service = opened()
    bases, path = service.library.bases, home / "own.gguf"
    path.write_bytes(service.base.path.read_bytes())
    bases.add(path)
    bases.use("own")
    keep(opened(), None)
    assert cached(opened(), None) > 64
    other, stat = home / "other.gguf", path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    other.write_bytes(data)
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    opened().close()
    other.replace(path)
    assert bases.get("own").check().stamp.mtime_ns == stat.st_mtime_ns
    assert cached(opened(), None) == 0


@pytest.mark.parametrize("variable", ["EDGELORA_KV_TYPE=q8_0", "EDGELORA_KERNEL=numpy"])
def test_another_kv_or_kernel_computes(opened: Callable[..., Service], variable: str) -> None:
    """What computes other numbers, or keeps them in another form, has prefixes of its own."""
    keep(opened())
    name, _, value = variable.partition("=")
    assert cached(opened(**{name: value})) == 0
    assert cached(opened()) > 64


def test_another_library_build_computes(opened: Callable[..., Service], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same version of llama.cpp, built anew: its files have another digest."""
    keep(opened())
    assert cached(opened()) > 64
    monkeypatch.setattr("edgelora.backends.llama_cpp.kv_identity.build_digest", lambda folder: "0" * 16)
    assert cached(opened()) == 0


def test_another_template_computes(opened: Callable[..., Service], monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the tokens come out the same, a base with another template has prefixes of its own."""
    keep(opened())
    assert cached(opened()) > 64
    original = PrefixCache.__init__

    def other(self: PrefixCache, *args: object, **rest: object) -> None:
        original(self, *args, **rest | {"template": "0" * 64})  # type: ignore[arg-type]

    monkeypatch.setattr(PrefixCache, "__init__", other)
    assert cached(opened()) == 0


def test_the_command_line(home: Path, tmp_path: Path) -> None:
    """add, run, ls, rm as a user types them: the first answer of a process has its system prompt already."""
    environ = {"EDGELORA_HOME": str(home), "EDGELORA_OFFLINE": "1", "EDGELORA_THREADS": "1"}
    environ["PYTHONPATH"] = os.pathsep.join(sys.path)

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "edgelora", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environ, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    (tmp_path / "clinic.txt").write_text(SYSTEM, encoding="utf-8")
    added = json.loads(run("prefix", "add", "medical-faq", "--system", "clinic.txt", "--json"))
    assert added["name"] == "medical-faq-clinic" and added["tokens"] > 64
    asked = json.loads(run("run", "-a", "medical-faq", "--system", SYSTEM, "--json", QUESTIONS[0]))
    assert asked["usage"]["prompt_tokens_details"]["cached_tokens"] == added["tokens"]
    (one,) = json.loads(run("prefix", "ls", "--json"))
    assert (one["name"], one["base"], one["adapters"][0]["name"]) == (
        "medical-faq-clinic",
        "edgelora-tiny",
        "medical-faq@1",
    )
    run("prefix", "rm", "medical-faq-clinic")
    assert json.loads(run("prefix", "ls", "--json")) == []
