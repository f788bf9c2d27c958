"""The chat template is the base's own, whatever lies beside an adapter; and it runs in a sandbox."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgelora.core.errors import UsageError
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.engine import Engine
from edgelora.runtime.service import Service
from edgelora.text import chat_template
from edgelora.text.prompt import Message, encode_chat
from tests.support.adapters import write_peft
from tests.support.cli import SHAPE, make_library
from tests.support.fake_backend.backend import FakeBackend
from tests.support.fake_backend.tokenizer import FakeTokenizer

EVIL = "{{ ''.__class__.__mro__[1].__subclasses__() }} OWNED"


def poisoned(folder: Path) -> Path:
    """An adapter with a template in every place where tools look for one."""
    source = write_peft(folder, SHAPE, seed=9)
    (source / "chat_template.jinja").write_text(EVIL)
    (source / "chat_template.json").write_text(json.dumps({"chat_template": EVIL}))
    (source / "tokenizer_config.json").write_text(json.dumps({"chat_template": EVIL}))
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "default.jinja").write_text(EVIL)
    return source


def test_an_adapters_template_is_never_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not kept, and with the adapter acting the one template that is compiled is still the base's."""
    library = make_library(tmp_path / "home")
    base = library.bases.current()
    library.store.add(poisoned(tmp_path / "evil"), name="evil", base=base)
    kept = [path for path in library.settings.directories.data.rglob("*") if path.is_file()]
    assert kept and not [path for path in kept if b"OWNED" in path.read_bytes()]
    compiled: list[str] = []
    compile_ = chat_template._compile
    monkeypatch.setattr(chat_template, "_compile", lambda source: compiled.append(source) or compile_(source))
    engine = Engine(FakeBackend(), adapter_budget_bytes=1 << 30, max_queue=4)
    with Service(library, base, engine) as service:
        plain = service.chat([Message("user", "Hi")], sampling=SamplingParams(max_tokens=1))
        acting = service.chat(
            [Message("user", "Hi")], adapters=service.compose("evil"), sampling=SamplingParams(max_tokens=1)
        )
        list(plain), list(acting)
    assert set(compiled) == {FakeTokenizer().chat_template}


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ lipsum.__globals__['os'] }}",
        "{% set x = messages.append(1) %}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ ('%s' | attr('format'))(messages).__class__ }}",
    ],
)
def test_a_bases_template_is_kept_in_its_sandbox(source: str) -> None:
    """No way out to Python's objects, to files, or to what it was given: an error, or nothing."""
    try:
        tokens = encode_chat([Message("user", "Hi")], FakeTokenizer(chat_template=source))
    except UsageError as error:
        assert error.code == "bad_template"
    else:
        said = bytes(token for token in tokens if token < 256)
        assert b"class" not in said and b"root:" not in said and b"module" not in said
