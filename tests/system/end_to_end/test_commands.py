"""The `edgelora` command as a user starts it: a process, a home, a folder that is not the project's."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edgelora_models import builtin

Run = Callable[..., subprocess.CompletedProcess[str]]
QUESTION = "What is hypertension?"


@pytest.fixture
def run(home: Path, tmp_path: Path) -> Run:
    def start(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        environ = {"EDGELORA_HOME": str(home), "EDGELORA_OFFLINE": "1", "EDGELORA_THREADS": "1"}
        environ["PYTHONPATH"] = os.pathsep.join(sys.path)
        command = [sys.executable, "-m", "edgelora", *arguments]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environ, check=False
        )

    return start


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The medical adapter's PEFT folder, to be damaged."""
    return Path(shutil.copytree(builtin.adapters()["medical-faq"], tmp_path / "copy"))


def test_run_puts_the_answer_alone_on_stdout(run: Run) -> None:
    """Nothing but the answer and a newline; nothing at all on stderr off a terminal."""
    done = run("run", "--adapter", "medical-faq", QUESTION)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1 and "not medical advice" in done.stdout


def test_a_prompt_comes_from_a_pipe(run: Run) -> None:
    """The same answer as from an argument."""
    assert (
        run("run", "--adapter", "medical-faq", stdin=QUESTION).stdout
        == run("run", "--adapter", "medical-faq", QUESTION).stdout
    )


def test_run_as_json_has_answer_usage_and_timings(run: Run) -> None:
    """One object, for programs."""
    reply = json.loads(run("run", "--json", "--adapter", "medical-faq", QUESTION).stdout)
    assert "not medical advice" in reply["answer"]
    assert reply["usage"]["completion_tokens"] > 5 and reply["timings"]["decode_seconds"] > 0


def test_a_zip_is_added_listed_shown_used_and_removed(run: Run, copy: Path, tmp_path: Path) -> None:
    """An adapter's whole life by its name."""
    archive = tmp_path / "mine.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in copy.iterdir():
            file.write(path, path.name)
    assert run("add", str(archive), "--name", "mine").returncode == 0
    assert "mine" in [entry["name"] for entry in json.loads(run("ls", "--json").stdout)]
    assert json.loads(run("show", "mine", "--json").stdout)["name"] == "mine"
    assert "not medical advice" in run("run", "--adapter", "mine", QUESTION).stdout
    assert run("rm", "mine").returncode == 0
    assert run("run", "--adapter", "mine", QUESTION).returncode == 3


@pytest.mark.parametrize("form", ["gguf", "mlx"])
def test_convert_writes_what_was_asked_for(run: Run, copy: Path, tmp_path: Path, form: str) -> None:
    """A file or folder where -o says, and never over something."""
    out = tmp_path / f"out.{form}"
    assert run("convert", str(copy), "--to", form, "-o", str(out)).returncode == 0
    assert out.exists() and out.is_dir() == (form == "mlx")
    assert run("convert", str(copy), "--to", form, "-o", str(out)).returncode == 2


def nan(folder: Path) -> Path:
    tensors = load_file(folder / "adapter_model.safetensors") if _is_f32(folder) else _as_f32(folder)
    next(iter(tensors.values()))[0, 0] = np.nan
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def _is_f32(folder: Path) -> bool:
    return b'"BF16"' not in (folder / "adapter_model.safetensors").read_bytes()[:200_000]


def _as_f32(folder: Path) -> dict[str, np.ndarray]:
    from edgelora_converters.tensors.safetensors_reader import open_safetensors

    with open_safetensors(folder / "adapter_model.safetensors") as file:
        return {name: np.array(file.read_f32(name)) for name in file.tensors}


def truncated(folder: Path) -> Path:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    return folder


def pickled(folder: Path) -> Path:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    return folder


def dora(folder: Path) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "use_dora": True}))
    return folder


def other_layers(folder: Path) -> Path:
    tensors = _as_f32(folder)
    save_file(
        {name.replace(".layers.0.", ".layers.31."): value for name, value in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    return folder


def climbing(folder: Path) -> Path:
    archive = folder.parent / "climbing.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../adapter_config.json", "{}")
    return archive


def bomb(folder: Path) -> Path:
    archive = folder.parent / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("adapter_config.json", "{}")
        file.writestr("adapter_model.safetensors", b"\0" * (64 << 20))
    return archive


@pytest.mark.parametrize("damage", [nan, truncated, pickled, dora, other_layers, climbing, bomb])
def test_a_bad_adapter_is_refused_in_a_paragraph_and_nothing_is_installed(
    run: Run, copy: Path, damage: Callable[[Path], Path]
) -> None:
    """Exit 5, one paragraph that says what to do, no traceback, and the store as it was."""
    before = run("ls", "--json").stdout
    done = run("add", str(damage(copy)), "--name", "bad")
    assert (done.returncode, done.stdout) == (5, ""), done.stderr
    assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr and len(done.stderr.split()) > 12
    assert run("ls", "--json").stdout == before


def test_an_unknown_adapter_is_exit_3_with_a_near_name(run: Run) -> None:
    """Did you mean; never the base in disguise."""
    done = run("run", "--adapter", "medical-fak", QUESTION)
    assert (done.returncode, done.stdout) == (3, "") and "medical-faq" in done.stderr


def test_a_prompt_longer_than_the_context_is_exit_2(run: Run) -> None:
    """Said before any work, with the numbers."""
    done = run("run", stdin="word " * 9000)
    assert (done.returncode, done.stdout) == (2, "") and "context" in done.stderr


def test_a_taken_port_is_exit_8(run: Run) -> None:
    """The port is named, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", "--port", str(port))
    assert done.returncode == 8 and str(port) in done.stderr


def test_a_missing_base_is_exit_3_and_a_broken_one_exit_6(run: Run, tmp_path: Path) -> None:
    """An unknown base name, and a file that is no GGUF."""
    assert run("run", "--base", "nowhere", "hi").returncode == 3
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\0" * 100)
    assert run("base", "add", str(broken)).returncode == 6


def test_pulling_offline_is_exit_4(run: Run) -> None:
    """The network is never touched when it was forbidden."""
    assert run("--offline", "base", "pull", "llama-3.1-8b").returncode == 4


def test_doctor_finds_everything_well(run: Run) -> None:
    """Every check is ok or a warning, and the smoke test went through the engine."""
    checks = json.loads(run("doctor", "--json").stdout)
    assert checks
