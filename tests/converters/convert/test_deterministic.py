"""The same adapter gives the same bytes: in every format, in any process, in whatever order its tensors lie."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgelora_converters.convert.convert import Format, convert
from edgelora_converters.peft import reader as peft_reader
from edgelora_models.fingerprint import BaseFingerprint
from tests.support.adapters import peft_tensors, write_peft, write_safetensors
from tests.support.lora import GQA

BASE = BaseFingerprint("llama", GQA, vocabulary="a" * 64, template="b" * 64)
FORMATS = pytest.mark.parametrize("to", ["mapped", "gguf", "mlx", "peft"])
MIXED = {"rank_pattern": {"q_proj": 7, "down_proj": 1}, "alpha_pattern": {"v_proj": 3}, "use_rslora": True}

IN_ANOTHER_PROCESS = """
import sys
from pathlib import Path
from tests.converters.convert.test_deterministic import BASE, convert
source, out, to = sys.argv[1:]
convert(Path(source), Path(out), to=to, base=BASE)
"""


def contents(path: Path) -> dict[str, bytes]:
    """A file's bytes, or those of every file in a folder."""
    files = path.iterdir() if path.is_dir() else [path]
    return {file.name if path.is_dir() else "": file.read_bytes() for file in files}


@FORMATS
@pytest.mark.parametrize("seed", ["0", "1"])
def test_another_process(tmp_path: Path, to: Format, seed: str) -> None:
    """With other hash seeds sets and dictionaries of names come in other orders; the file does not."""
    source = write_peft(tmp_path / "peft", GQA, **MIXED)
    convert(source, tmp_path / "here", to=to, base=BASE)
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(source), str(tmp_path / "there"), to]
    environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path), "PATH": ""}
    subprocess.run(command, check=True, env=environment, timeout=120)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")


@FORMATS
def test_another_order(tmp_path: Path, to: Format) -> None:
    """Tensors and keys turned round make another source, by its digest, and not one byte else."""
    one = write_peft(tmp_path / "one", GQA, **MIXED)
    two = tmp_path / "two"
    two.mkdir()
    config = json.loads((one / "adapter_config.json").read_text())
    (two / "adapter_config.json").write_text(json.dumps(dict(reversed(config.items()))))
    tensors = peft_tensors(GQA, rank=4, rank_pattern=MIXED["rank_pattern"])
    turned = dict(reversed(tensors.items()))
    write_safetensors(two / "adapter_model.safetensors", turned, metadata={"format": "pt"})
    for source in (one, two):
        convert(source, tmp_path / f"{source.name}.out", to=to, base=BASE)
    digests = [peft_reader.source_digest(source).encode() for source in (one, two)]
    found = [contents(tmp_path / f"{name}.out") for name in ("one", "two")]
    assert digests[0] != digests[1]
    assert {name: data.replace(*digests) for name, data in found[0].items()} == found[1]


@FORMATS
def test_the_bytes_are_of_the_adapter(tmp_path: Path, to: Format) -> None:
    """One value more or less changes them: the tests above could fail."""
    one, two = (write_peft(tmp_path / name, GQA, seed=seed) for name, seed in (("one", 0), ("two", 1)))
    for source in (one, two):
        convert(source, tmp_path / f"{source.name}.out", to=to, base=BASE)
    found = [contents(tmp_path / f"{name}.out") for name in ("one", "two")]
    assert found[0].keys() == found[1].keys() and found[0] != found[1]
    sizes = [sum(map(len, files.values())) for files in found]
    assert sizes[0] == sizes[1]
