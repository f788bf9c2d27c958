"""`ls`, `add`, `show`, `rm` over a real store."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edgelora.cli.support.app import App
from edgelora.store.library import Library
from edgelora_models.shape import LlamaShape
from tests.support.adapters import TINY, peft_tensors, write_peft, write_safetensors
from tests.support.cli import SHAPE, make_app, run


def test_ls(installed: Library) -> None:
    """Adapters are listed by name, one in a line, below a header."""
    done = run(make_app(installed), "ls")
    assert (done.exit_code, done.stderr) == (0, "")
    header, *rows = done.stdout.splitlines()
    assert header.split() == ["NAME", "VERSION", "BASE", "RANK", "SIZE", "ADDED"]
    assert [row.split()[:4] for row in rows] == [["medical-faq", "1", "tiny", "4"], ["pirate", "1", "tiny", "4"]]


def test_ls_json(installed: Library) -> None:
    """--json has raw bytes and ISO times."""
    printed = json.loads(run(make_app(installed), "ls", "--json").stdout)
    assert [adapter["name"] for adapter in printed] == ["medical-faq", "pirate"]
    assert printed[0].keys() == {
        *("name", "version", "digest", "base", "rank", "bytes", "created", "warnings", "quarantined")
    }
    assert (printed[0]["quarantined"], printed[0]["warnings"]) == (None, [])
    assert printed[0]["bytes"] == installed.store.get("medical-faq").latest.nbytes
    assert printed[0]["created"].endswith("+00:00")


def test_ls_of_nothing(library: Library) -> None:
    """An empty store says how to fill it, on stderr; --json is an empty array."""
    run(make_app(library), "rm", "medical-faq", "pirate")
    done = run(make_app(library), "ls")
    assert (done.stdout, "edgelora add DIR" in done.stderr) == ("", True)
    assert json.loads(run(make_app(library), "ls", "--json").stdout) == []


def test_add_folder(library: Library, tmp_path: Path) -> None:
    """A folder is installed under its own name, and what to do next is said on stderr."""
    done = run(make_app(library), "add", str(write_peft(tmp_path / "Legal FAQ", SHAPE, rank=8)))
    assert (done.exit_code, done.stdout) == (0, "")
    assert "edgelora run --adapter legal-faq" in done.stderr
    assert library.store.get("legal-faq").latest.rank == 8


def test_add_zip_under_a_name(library: Library, tmp_path: Path) -> None:
    """A zip is installed under the name given; --json tells what became of it."""
    write_peft(tmp_path / "source", SHAPE, seed=9)
    archive = shutil.make_archive(str(tmp_path / "adapter"), "zip", tmp_path / "source")
    done = run(make_app(library), "add", archive, "--name", "sql", "--base", "tiny", "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    assert json.loads(done.stdout)["name"] == "sql"


def zeroed(folder: Path) -> Path:
    """An adapter whose every lora_B is zero: as it is before training."""
    write_peft(folder, SHAPE)
    tensors = peft_tensors(SHAPE, rank=4)
    zero = {name: values * (0 if ".lora_B." in name else 1) for name, values in tensors.items()}
    write_safetensors(folder / "adapter_model.safetensors", zero, dtype="F32")
    return folder


def test_an_adapter_that_changes_nothing(library: Library, tmp_path: Path) -> None:
    """It is installed with a warning, which `show` repeats; --strict refuses it; alpha 0 is the same."""
    done = run(make_app(library), "add", str(zeroed(tmp_path / "zero")))
    assert done.exit_code == 0 and "Warning: The adapter changes nothing" in done.stderr
    assert "changes nothing" in run(make_app(library), "show", "zero").stdout
    silent = write_peft(tmp_path / "silent", SHAPE, alpha=0)
    printed = json.loads(run(make_app(library), "add", str(silent), "--json").stdout)
    assert [warning["code"] for warning in printed["warnings"]] == ["no_effect"]
    done = run(make_app(library), "add", str(silent), "--name", "strict", "--strict")
    assert done.exit_code != 0 and "--strict" in done.stderr and "strict" not in library.store.names()
    ordinary = write_peft(tmp_path / "ordinary", SHAPE, seed=5)
    assert "Warning" not in run(make_app(library), "add", str(ordinary), "--strict").stderr


@pytest.mark.parametrize(
    "config",
    [
        {"base_model_name_or_path": "mistralai/Mistral-7B-Instruct-v0.3"},
        {"auto_mapping": {"base_model_class": "MistralForCausalLM", "parent_library": "transformers"}},
        {"base_model_class": "MistralForCausalLM"},
    ],
)
def test_an_adapter_of_another_architecture(library: Library, tmp_path: Path, config: dict[str, object]) -> None:
    """Its shapes fit, and it would run and answer badly: refused by name, unless --force is given."""
    source = str(write_peft(tmp_path / "foreign", SHAPE, **config))
    done = run(make_app(library), "add", source)
    assert done.exit_code == 5 and "trained on" in done.stderr and "--force" in done.stderr
    done = run(make_app(library), "convert", source, "--to", "gguf", "-o", str(tmp_path / "a.gguf"))
    assert done.exit_code == 5 and not (tmp_path / "a.gguf").exists()
    done = run(make_app(library), "convert", source, "--to", "gguf", "-o", str(tmp_path / "a.gguf"), "--force")
    assert done.exit_code == 0
    done = run(make_app(library), "add", source, "--force")
    assert done.exit_code == 0 and "Warning: The adapter was trained on" in done.stderr
    assert [warning.code for warning in library.store.get("foreign").latest.warnings] == ["other_architecture"]
    library.store.remove("foreign")


def test_an_adapter_of_another_checkpoint(library: Library, tmp_path: Path) -> None:
    """A warning where both names are known; a mirror of the base's own is the same checkpoint."""
    path = str(library.bases.get("tiny").path)
    added = run(make_app(library), "base", "add", path, "--name", "tiny", "--is", "meta-llama/Llama-3.1-8B")
    assert added.exit_code == 0
    mirror = write_peft(tmp_path / "mirror", SHAPE, base_model_name_or_path="unsloth/Meta-Llama-3.1-8B-bnb-4bit")
    assert "Warning" not in run(make_app(library), "add", str(mirror), "--strict").stderr
    other = write_peft(tmp_path / "other", SHAPE, base_model_name_or_path="meta-llama/Llama-3.1-8B-Instruct")
    done = run(make_app(library), "add", str(other))
    message = "trained on meta-llama/Llama-3.1-8B-Instruct; this base is meta-llama/Llama-3.1-8B."
    assert done.exit_code == 0 and message in done.stderr
    local = write_peft(tmp_path / "local", SHAPE, base_model_name_or_path="/home/ada/models/llama")
    assert "Warning" not in run(make_app(library), "add", str(local)).stderr


@pytest.mark.parametrize("name", ["tiny", "auto", "llama-3.1-8b-instruct"])
def test_a_base_s_name_is_refused(library: Library, tmp_path: Path, name: str) -> None:
    """Requests for it would go to the base, in silence."""
    source = write_peft(tmp_path / "source", SHAPE)
    done = run(make_app(library), "add", str(source), "--name", name)
    assert done.exit_code == 2 and "is the name of a base" in done.stderr and "--name" in done.stderr
    shutil.move(source, tmp_path / name)
    assert run(make_app(library), "add", str(tmp_path / name)).exit_code == 2
    done = run(make_app(library), "combine", "medical-faq", "pirate", "--name", name)
    assert done.exit_code == 2 and "is the name of a base" in done.stderr


def test_add_again_is_a_new_version(library: Library, tmp_path: Path) -> None:
    """Other content under a name that is taken is the next version; the old one stays to be named."""
    source = write_peft(tmp_path / "other", SHAPE, seed=9)
    assert "version 2" in run(make_app(library), "add", str(source), "-n", "pirate").stderr
    old, new = (json.loads(run(make_app(library), "show", spec, "--json").stdout) for spec in ("pirate@1", "pirate"))
    assert (old["version"], new["version"], new["versions"]) == (1, 2, [1, 2])


@pytest.mark.parametrize(
    ("made", "code", "word"),
    [
        ("nothing", 2, "There is no"),
        ("empty", 5, "adapter_config.json"),
        ("pickle", 5, "adapter_model.bin"),
        ("other base", 5, "does not fit the base tiny"),
        ("truncated", 5, ""),
    ],
)
def test_add_refused(library: Library, tmp_path: Path, made: str, code: int, word: str) -> None:
    """A refused adapter gives one clear paragraph and its exit code, and changes nothing."""
    source = tmp_path / "source"
    if made == "other base":
        write_peft(source, TINY, layers=[7])
    elif made != "nothing":
        write_peft(source, SHAPE)
    tensors = source / "adapter_model.safetensors"
    if made == "empty":
        shutil.rmtree(source)
        source.mkdir()
    elif made == "pickle":
        tensors.rename(source / "adapter_model.bin")
    elif made == "truncated":
        tensors.write_bytes(tensors.read_bytes()[:-100])
    done = run(make_app(library), "add", str(source), "-n", "new")
    assert (done.exit_code, done.stdout) == (code, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and word in done.stderr
    assert "new" not in library.store.names()


def test_add_for_an_unknown_base(library: Library, tmp_path: Path) -> None:
    """--base with an unknown name is exit 3 with near names."""
    done = run(make_app(library), "add", str(tmp_path), "--base", "tine")
    assert (done.exit_code, "Did you mean 'tiny'?" in done.stderr) == (3, True)


def test_show(installed: Library) -> None:
    """The details are printed, one field in a line."""
    done = run(make_app(installed), "show", "pirate")
    assert (done.exit_code, done.stderr) == (0, "")
    printed = dict(line.split("  ", 1) for line in done.stdout.splitlines())
    assert printed["name"].strip() == "pirate"
    assert {"rank", "alpha", "scale", "targets", "size", "mapped"} <= {label.strip() for label in printed}


def test_show_an_alora(library: Library, tmp_path: Path) -> None:
    """The invocation is shown; a plain adapter has no such line."""
    write_peft(tmp_path / "late", SHAPE, task_type="CAUSAL_LM", alora_invocation_tokens=[7, 9])
    assert run(make_app(library), "add", str(tmp_path / "late")).exit_code == 0
    assert "invocation      the tokens [7, 9] (aLoRA)" in run(make_app(library), "show", "late").stdout
    assert json.loads(run(make_app(library), "show", "late", "--json").stdout)["invocation"] == [7, 9]
    assert "invocation" not in run(make_app(library), "show", "pirate").stdout


def test_show_json(installed: Library) -> None:
    """--json adds files, conversions, versions and aliases to what `ls` tells."""
    printed = json.loads(run(make_app(installed), "show", "pirate", "--json").stdout)
    assert [file["name"] for file in printed["files"]] == ["adapter_config.json", "adapter_model.safetensors"]
    assert Path(printed["conversions"][0]["path"]).exists()
    assert printed["aliases"] == {"latest": 1}


@pytest.mark.parametrize("verb", ["show", "rm"])
def test_unknown_name(installed: Library, verb: str) -> None:
    """An unknown name is exit 3 with near names."""
    done = run(make_app(installed), verb, "pirat")
    assert (done.exit_code, "Did you mean 'pirate'?" in done.stderr) == (3, True)


def test_rm(library: Library) -> None:
    """Removed is gone from the store; several at once, or none where one is unknown."""
    app = make_app(library)
    assert run(app, "rm", "pirate", "nobody").exit_code == 3
    assert set(library.store.names()) == {"medical-faq", "pirate"}
    done = run(app, "rm", "pirate", "medical-faq", "pirate")
    assert (done.exit_code, done.stdout) == (0, "")
    assert not library.store.names()


def test_another_architecture_is_told_before_its_shapes(library: Library, tmp_path: Path) -> None:
    """A Qwen adapter fits no Llama's shape; what is wrong is that it is a Qwen's."""
    wider = LlamaShape(layers=2, hidden=96, heads=6, kv_heads=2, head_dim=16, ffn=192, vocab=256, tied=False)
    source = str(write_peft(tmp_path / "qwen", wider, base_model_name_or_path="Qwen/Qwen2.5-7B-Instruct"))
    for verb in (("add", source), ("convert", source, "--to", "gguf", "-o", str(tmp_path / "a.gguf"))):
        done = run(make_app(library), *verb)
        assert done.exit_code == 5 and "a Qwen model" in done.stderr


def test_a_home_that_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit code of the store's errors, and what to do."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGELORA_HOME", str(tmp_path / "file"))
    done = run(App(), "ls")
    assert done.exit_code == 7 and "is a file, where a folder is needed" in done.stderr
