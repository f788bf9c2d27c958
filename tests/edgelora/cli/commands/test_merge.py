"""`edgelora merge`: an installed base's file, or a folder, with adapters in it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgelora.runtime.service import Library
from edgelora_converters.oracle.open import load_gguf, load_hf
from edgelora_converters.peft import reader as peft_reader
from edgelora_converters.weights.open import open_base_weights
from tests.support.adapters import write_peft
from tests.support.bases import tiny_weights, write_tiny_gguf
from tests.support.cli import SHAPE, make_app, run
from tests.support.oracles import TOKENS, deltas, distance, tiny_oracle, write_tiny_hf
from tests.support.variants import kasa


def source(library: Library, name: str) -> Path:
    return library.settings.directories.data.parent / "sources" / name


def test_into_an_installed_base(installed: Library, tmp_path: Path) -> None:
    """The merged file answers as base and adapter did, is a base that can be added, and the costs are told."""
    out = tmp_path / "merged.gguf"
    done = run(make_app(installed), "merge", "pirate", "--base", "tiny", "-o", str(out))
    assert (done.exit_code, done.stdout) == (0, "")
    assert "14 modules merged" in done.stderr and f"edgelora base add {out}" in done.stderr
    adapter = peft_reader.read(source(installed, "pirate"), SHAPE)
    expected = tiny_oracle(SHAPE, seed=0).logits(TOKENS, deltas(adapter))
    assert distance(load_gguf(out, dtype="float64").logits(TOKENS), expected) < 1e-5
    assert installed.bases.names() == ("tiny",)


def test_into_a_folder(installed: Library, tmp_path: Path) -> None:
    """A Hugging Face folder is given by its path; --json has the figures of every module."""
    base = write_tiny_hf(tmp_path / "hf", SHAPE, seed=0)
    arguments = ("merge", "pirate:0.5", str(source(installed, "medical-faq")), "--base", str(base))
    done = run(make_app(installed), *arguments, "-o", str(tmp_path / "out"), "--json")
    printed = json.loads(done.stdout)
    assert done.exit_code == 0 and printed["out"] == str(tmp_path / "out")
    assert len(printed["modules"]) == 14 and printed["error"] < 1e-6
    assert load_hf(tmp_path / "out").config.shape == SHAPE


def test_what_needs_the_bases_weights_has_them(installed: Library, tmp_path: Path) -> None:
    """KaSA, which took values out of the base, is merged with the base at hand; what was done is said."""
    base = write_tiny_hf(tmp_path / "hf", SHAPE, seed=0)
    weights = tiny_weights(SHAPE, seed=0)
    expected = kasa(tmp_path / "kasa", SHAPE, weights, rank=3, seed=1)
    out = tmp_path / "out"
    done = run(make_app(installed), "merge", str(tmp_path / "kasa"), "--base", str(base), "-o", str(out))
    assert done.exit_code == 0 and "kasa: what KaSA took out of the base" in done.stderr
    with open_base_weights(out) as merged:
        for path, change in expected.items():
            name = f"{path}.weight"
            np.testing.assert_allclose(merged.read(name), weights[name] + change, atol=1e-5)


def test_modules(installed: Library, tmp_path: Path) -> None:
    """--modules is a table on stdout."""
    done = run(make_app(installed), "merge", "pirate", "--base", "tiny", "-o", str(tmp_path / "a.gguf"), "--modules")
    header, *rows = done.stdout.splitlines()
    assert header.split() == ["MODULE", "ERROR", "ERROR/CHANGE", "KEPT"]
    assert len(rows) == 14 and rows[0].endswith("100.0%")


def test_another_bases_adapter_is_warned_of(installed: Library, tmp_path: Path) -> None:
    """Another vocabulary with the same shapes gives a warning; it may be the same model in another form."""
    base = write_tiny_gguf(tmp_path / "b.gguf", replace(SHAPE, vocab=SHAPE.vocab + 8), seed=0)
    done = run(make_app(installed), "merge", "pirate", "--base", str(base), "-o", str(tmp_path / "out.gguf"))
    assert done.exit_code == 0
    assert done.stderr.startswith("warning: pirate was added for tiny")


def test_refusals(library: Library, tmp_path: Path) -> None:
    """An aLoRA is exit 5 by its code, an OUT that is there exit 2, an unknown base exit 3; nothing is written."""
    late = write_peft(tmp_path / "late", SHAPE, task_type="CAUSAL_LM", alora_invocation_tokens=[7, 9])
    out, app = tmp_path / "out.gguf", make_app(library)
    done = run(app, "merge", str(late), "--base", "tiny", "-o", str(out), "--json")
    assert (done.exit_code, json.loads(done.stderr)["error"]["code"]) == (5, "merge_alora")
    assert run(app, "merge", "pirate", "--base", "tine", "-o", str(out)).exit_code == 3
    assert not out.exists()
    out.write_text("precious")
    assert run(app, "merge", "pirate", "--base", "tiny", "-o", str(out)).exit_code == 2
    assert out.read_text() == "precious"
