"""`edgelora convert`: formats, bases, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgelora.store.conversion_base import find
from edgelora.store.library import Library
from edgelora_models.catalogue import ENTRIES
from tests.support.adapters import write_peft
from tests.support.bases import write_tiny_gguf
from tests.support.cli import SHAPE, make_app, run
from tests.support.variants import plain, save


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_peft(tmp_path / "source", SHAPE)


@pytest.mark.parametrize(("to", "is_folder"), [("gguf", False), ("mlx", True)])
def test_formats(installed: Library, source: Path, tmp_path: Path, to: str, is_folder: bool) -> None:
    """GGUF is a file and MLX a folder; stdout stays empty."""
    out = tmp_path / "out"
    done = run(make_app(installed), "convert", str(source), "--to", to, "-o", str(out))
    assert (done.exit_code, done.stdout) == (0, "")
    assert out.is_dir() is is_folder and str(out) in done.stderr


def test_json(installed: Library, source: Path, tmp_path: Path) -> None:
    """--json is the report of the conversion."""
    done = run(make_app(installed), "convert", str(source), "--to", "gguf", "-o", str(tmp_path / "a.gguf"), "--json")
    printed = json.loads(done.stdout)
    assert (printed["rank"], printed["modules"], printed["out"]) == (4, 14, str(tmp_path / "a.gguf"))
    assert 0 <= printed["worst"] < 1e-6


def test_base_by_path(installed: Library, source: Path, tmp_path: Path) -> None:
    """--base takes a model file that is not installed."""
    base = write_tiny_gguf(tmp_path / "other.gguf", SHAPE, seed=3)
    out = tmp_path / "a.gguf"
    done = run(make_app(installed), "convert", str(source), "--to", "gguf", "-o", str(out), "--base", str(base))
    assert done.exit_code == 0 and out.is_file()
    assert installed.bases.names() == ("tiny",)


def test_refusals(installed: Library, source: Path, tmp_path: Path) -> None:
    """An OUT that exists is exit 2 and left alone; an unknown base is exit 3; no --to is exit 2."""
    out = tmp_path / "a.gguf"
    out.write_text("precious")
    app = make_app(installed)
    assert run(app, "convert", str(source), "--to", "gguf", "-o", str(out)).exit_code == 2
    assert out.read_text() == "precious"
    assert run(app, "convert", str(source), "--to", "gguf", "-o", str(tmp_path / "b"), "--base", "tine").exit_code == 3
    assert run(app, "convert", str(source), "-o", str(tmp_path / "b")).exit_code == 2


def test_the_bases_weights(installed: Library, tmp_path: Path) -> None:
    """A base by its path serves as its weights; an installed one needs them by option; what was done is told."""
    pissa = save(tmp_path / "pissa", plain(SHAPE, rank=4), init_lora_weights="pissa")
    base = str(write_tiny_gguf(tmp_path / "base.gguf", SHAPE, seed=3))
    app, out = make_app(installed), tmp_path / "out"
    command = ["convert", str(pissa), "--to", "gguf", "-o"]
    refused = run(app, *command, str(out))
    assert refused.exit_code == 5 and "--base-weights" in refused.stderr and not out.exists()
    for n, options in enumerate((["--base", base], ["--base-weights", base])):
        done = run(app, *command, f"{out}{n}", *options)
        assert done.exit_code == 0 and "pissa" in done.stderr and "rank 8" in done.stderr
    assert Path(f"{out}0").read_bytes() == Path(f"{out}1").read_bytes()


def test_the_adapter_before_training(installed: Library, tmp_path: Path) -> None:
    """--initial is the folder it was saved in."""
    last = save(tmp_path / "last", plain(SHAPE, rank=4, seed=1), init_lora_weights="corda")
    first = save(tmp_path / "first", plain(SHAPE, rank=4, seed=2))
    command = ["convert", str(last), "--to", "peft", "-o", str(tmp_path / "out")]
    assert "--initial" in run(make_app(installed), *command).stderr
    assert run(make_app(installed), *command, "--initial", str(first)).exit_code == 0


EIGHT = ENTRIES[0].shape


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """An adapter for Llama-3.1-8B, which is not on this machine."""
    base = "unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit"
    return write_peft(tmp_path / "large", EIGHT, rank=1, targets=["v_proj"], base_model_name_or_path=base)


@pytest.mark.parametrize("base", [(), ("--base", "llama-3.1-8b"), ("--base", "meta-llama/Llama-3.1-8B-Instruct")])
def test_a_base_of_the_catalogue(installed: Library, large: Path, tmp_path: Path, base: tuple[str, ...]) -> None:
    """Its shape is known without a download: by its name, or by the one that the adapter says."""
    out = tmp_path / "a.gguf"
    done = run(make_app(installed), "convert", str(large), "--to", "gguf", "-o", str(out), *base)
    assert done.exit_code == 0 and out.is_file()
    assert "shape of llama-3.1-8b" in done.stderr and installed.bases.names() == ("tiny",)


def test_a_bare_configuration(installed: Library, large: Path, tmp_path: Path) -> None:
    """A folder with nothing but config.json."""
    folder = tmp_path / "Llama-8B"
    folder.mkdir()
    fields = {"model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32}
    fields |= {"num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256}
    (folder / "config.json").write_text(json.dumps(fields | {"max_position_embeddings": 131072}))
    command = ("convert", str(large), "--to", "mlx", "-o", str(tmp_path / "mlx"), "--base", str(folder))
    done = run(make_app(installed), *command)
    assert done.exit_code == 0 and "shape of Llama-8B" in done.stderr


def test_an_adapter_of_an_unknown_base(installed: Library, tmp_path: Path) -> None:
    """The chosen base does not fit: the message names it, and how to name or get another."""
    source = write_peft(tmp_path / "large", EIGHT, rank=1, targets=["v_proj"], base_model_name_or_path="someone/model")
    done = run(make_app(installed), "convert", str(source), "--to", "gguf", "-o", str(tmp_path / "a.gguf"))
    assert done.exit_code == 5 and "does not fit the base tiny" in done.stderr
    assert "--base" in done.stderr and "edgelora base pull" in done.stderr and "llama-3.1-8b" in done.stderr


def test_an_installed_base_of_the_adapter_s_own(library: Library, source: Path, tmp_path: Path) -> None:
    """One of the checkpoint that the adapter names goes before the chosen one, and one that is given before both."""
    other = write_tiny_gguf(tmp_path / "other.gguf", SHAPE, seed=7)
    library.bases.add(other, "other", model="meta-llama/Llama-3.2-1B")
    adapter = write_peft(tmp_path / "named", SHAPE, base_model_name_or_path="unsloth/Llama-3.2-1B")
    assert find(library, None, adapter).name == "other"
    assert find(library, None, source).name == "tiny"
    assert find(library, "tiny", adapter).name == "tiny"
