"""`edgelora verify`: what is proven, what is found, and the exit codes."""

from __future__ import annotations

import json
import shutil
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgelora.cli.support.app import App
from edgelora.store.bases.registry import identify
from edgelora.store.library import Library
from edgelora_models import builtin
from edgelora_models.gguf_header import read_header
from tests.support.adapters import write_peft
from tests.support.bases import write_tiny_gguf
from tests.support.cli import SHAPE, make_app, run

ONE = ("--prompt", "one", "--tokens", "12", "--threads", "1")


def verified(app: App, *arguments: str) -> dict[str, object]:
    done = run(app, "verify", *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["verified"] is True
    return printed


def flip(path: Path) -> None:
    """Flip the sign bit of the last tensor's last value."""
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1] ^= 0x80
    path.write_bytes(data)


def test_an_installed_adapter(library: Library) -> None:
    """Every conversion there is, by format and base; a table for people, exit code 0."""
    record = library.bases.current()
    for to in ("gguf", "mlx"):
        library.store.ref("pirate", record, to=to)  # type: ignore[arg-type]
    printed = verified(make_app(library), "pirate")
    assert [(p["format"], p["base"], p["modules"]) for p in printed["proofs"]] == [  # type: ignore[attr-defined]
        (to, "tiny", 14) for to in ("gguf", "mapped", "mlx")
    ]
    assert printed["parity"] is None
    done = run(make_app(library), "verify", "pirate")
    assert done.exit_code == 0 and done.stdout.count("proven") == 3


def test_a_lost_conversion_is_made_first(library: Library) -> None:
    """An adapter without any is converted for the chosen base, as its first use would."""
    shutil.rmtree(library.store.root / "conversions")
    assert [p["format"] for p in verified(make_app(library), "pirate")["proofs"]] == ["mapped"]  # type: ignore


def test_a_changed_file(library: Library) -> None:
    """A flipped bit gives exit code 5, and the other conversions are still checked."""
    record = library.bases.current()
    flip(library.store.ref("pirate", record, to="gguf").path)
    done = run(make_app(library), "verify", "pirate", "--json")
    assert done.exit_code == 5
    errors = {p["format"]: p["error"] for p in json.loads(done.stdout)["proofs"]}
    assert errors["gguf"]["code"] == "conversion_changed" and errors["mapped"] is None
    assert json.loads(done.stderr)["error"]["code"] == "conversion_changed"


@pytest.mark.parametrize("to", ["gguf", "mlx", "peft"])
def test_a_converted_file(library: Library, tmp_path: Path, to: str) -> None:
    """It is held against the installed adapter it says it is of; or against what is said, where that is not there."""
    source, out = write_peft(tmp_path / "source", SHAPE, seed=1), tmp_path / "out"
    app = make_app(library)
    assert run(app, "convert", str(source), "--to", to, "-o", str(out)).exit_code == 0
    assert [p["format"] for p in verified(app, str(out))["proofs"]] == [to]  # type: ignore[attr-defined]
    library.store.remove("pirate")
    done = run(app, "verify", str(out))
    assert done.exit_code == 2 and "--source" in done.stderr
    verified(app, str(out), "--source", str(source))


def test_a_converted_file_that_is_wrong(library: Library, tmp_path: Path) -> None:
    """Another source, or one changed value: exit code 5, and the module is named."""
    source, other = (write_peft(tmp_path / name, SHAPE, seed=seed) for name, seed in (("one", 1), ("two", 2)))
    out, app = tmp_path / "a.gguf", make_app(library)
    assert run(app, "convert", str(source), "--to", "gguf", "-o", str(out)).exit_code == 0
    assert run(app, "verify", str(out), "--source", str(other)).exit_code == 5
    last = list(read_header(out).tensors)[-1]
    flip(out)
    done = run(app, "verify", str(out))
    assert done.exit_code == 5 and "FAILED" in done.stdout
    assert last.split(".")[1] in done.stderr


def test_an_adapter_nobody_converted(library: Library, tmp_path: Path) -> None:
    """Every format is tried; what a format cannot say is told and is no failure; nothing is left behind."""
    source = write_peft(tmp_path / "source", SHAPE, alora_invocation_tokens=[5, 6], targets=["q_proj"])
    app = make_app(library)
    conversions = verified(app, str(source))["proofs"]
    assert {p["format"]: p["modules"] for p in conversions} == {"mapped": 2, "gguf": 2, "mlx": 0, "peft": 2}  # type: ignore
    assert list((library.store.root / "tmp").iterdir()) == []
    archive = shutil.make_archive(str(tmp_path / "zipped"), "zip", source)
    assert len(verified(app, archive)["proofs"]) == 4  # type: ignore[arg-type]


@pytest.mark.parametrize("base", ["tiny", "gguf", "hf"])
def test_on_a_base(library: Library, tmp_path: Path, base: str) -> None:
    """Installed, a file or a folder: the figures are those of an exact base, and the adapter is seen."""
    adapter = "pirate"
    if base == "gguf":
        base = str(write_tiny_gguf(tmp_path / "other.gguf", SHAPE, seed=3))
    elif base == "hf":
        base = str(builtin.base_hf())
        adapter = str(write_peft(tmp_path / "source", identify(Path(base)).fingerprint.shape))
    parity = verified(make_app(library), adapter, "--base", base, *ONE)["parity"]
    assert parity["adapter"]["kl"] < 1e-8 < parity["effect"]  # type: ignore[index]
    assert parity["passed"] and parity["visible"] and parity["positions"] in (11, 12)  # type: ignore[index]


def test_the_table_of_a_base(library: Library) -> None:
    """The table has the figures and the outcome."""
    done = run(make_app(library), "verify", "pirate", "--base", "tiny", *ONE)
    assert done.exit_code == 0
    for word in ("with the adapter", "base", "100.0%", "12 positions", "within the limit"):
        assert word in done.stdout


def test_an_adapter_that_is_run_otherwise(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime that differs from the adapter gives exit code 5, with the figures."""
    from edgelora.runtime.verify import conversions

    def other(library: Library, *_: object) -> AbstractContextManager[Path]:
        return nullcontext(library.store.ref("medical-faq", library.bases.current()).path)

    monkeypatch.setattr(conversions, "for_base", other)
    done = run(make_app(library), "verify", "pirate", "--base", "tiny", *ONE, "--json")
    assert done.exit_code == 5
    assert json.loads(done.stdout)["verified"] is False
    assert json.loads(done.stderr)["error"]["code"] == "parity"


def test_nothing_to_look_at(library: Library) -> None:
    """If the bases of all conversions are gone, nothing is proven, and the adapter does not count as verified."""
    library.bases.remove("tiny")
    library.bases.add(write_tiny_gguf(library.store.root / "b.gguf", replace(SHAPE, vocab=300), seed=3), "other")
    library.bases.use("other")
    done = run(make_app(library), "verify", "pirate", "--json")
    assert done.exit_code == 5
    assert json.loads(done.stdout)["verified"] is False
    assert json.loads(done.stderr)["error"]["code"] == "nothing_proven"


def test_refusals(library: Library, tmp_path: Path) -> None:
    """Unknown names exit 3, a source for what is installed 2, what is no adapter 5."""
    app = make_app(library)
    assert run(app, "verify", "pirat").exit_code == 3
    assert run(app, "verify", "pirate", "--base", "tin").exit_code == 3
    assert run(app, "verify", "pirate", "--source", str(tmp_path)).exit_code == 2
    np.zeros(9).tofile(tmp_path / "noise")
    assert run(app, "verify", str(tmp_path / "noise")).exit_code == 5
