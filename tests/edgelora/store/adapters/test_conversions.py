"""What an MLX base's store keeps: mlx-lm's folder, or edgelora's own layout where a folder cannot say it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from edgelora.core.config import read_settings
from edgelora.core.errors import AdapterUnsupported
from edgelora.store.adapters import conversions
from edgelora.store.adapters.conversions import ConversionTarget
from edgelora.store.adapters.store import Store
from edgelora.store.bases.record import BaseRecord
from edgelora.store.bases.registry import Bases
from edgelora_converters.peft import reader as peft_reader
from edgelora_converters.tensors.safetensors_reader import open_safetensors
from tests.support.adapters import write_peft
from tests.support.lora import GQA
from tests.support.mlx import write_tiny_mlx
from tests.support.records import base_record


@pytest.fixture
def base(tmp_path: Path) -> BaseRecord:
    settings = read_settings({"EDGELORA_HOME": str(tmp_path / "home")})
    return Bases(settings.directories).add(write_tiny_mlx(tmp_path / "base", GQA, seed=1), "tiny")


@pytest.mark.parametrize(
    ("fields", "format", "name"),
    [({}, "mlx", "adapter"), ({"alora_invocation_tokens": [70, 71]}, "mapped", "adapter.lora")],
)
def test_what_a_folder_cannot_say_is_kept_in_our_own_layout(
    tmp_path: Path, base: BaseRecord, fields: dict[str, list[int]], format: str, name: str
) -> None:
    """Added, found again without a second conversion, whole on disk, and its proof can be repeated."""
    store = Store(tmp_path / "store")
    _, version = store.add(write_peft(tmp_path / "peft", GQA, **fields), name="one", base=base)
    ref = store.ref("one", base, to="mlx", widened=True)
    assert ref.path.name == name and ref.nbytes == 4 * version.parameters
    (converted,) = store.conversions(version)
    assert converted.conversion.format == format and converted.path == ref.path
    assert store.verify() == ()
    assert store.ref("one", base) == replace(ref, nbytes=converted.conversion.memory_bytes)


def test_a_refusal_gives_mlxs_reason(tmp_path: Path, base: BaseRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """What neither form carries is refused for what mlx-lm's folder lacks, and leaves no file."""

    def refuse(adapter: object, out: Path, *, to: str, **_: object) -> None:
        raise AdapterUnsupported("no_form", f"{to} cannot carry it.")

    monkeypatch.setattr("edgelora_converters.convert.convert.write_verified", refuse)
    adapter = peft_reader.read(write_peft(tmp_path / "peft", GQA), GQA)
    goal = ConversionTarget("mlx", base.identity.fingerprint, base.path)
    with pytest.raises(AdapterUnsupported, match="mlx cannot carry it"):
        conversions.make(adapter, tmp_path / "out", goal=goal, progress=None)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("immutable", [False, True])
@pytest.mark.parametrize("kind", ["gguf", "mlx"])
def test_an_adapter_is_read_and_hashed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, immutable: bool, kind: Literal["gguf", "mlx"]
) -> None:
    """`add` opens the weights once, for the check and for the conversion, and hashes what it copies as it copies."""
    opened: list[Path] = []

    def counted(path: Path, **options: Any) -> Any:
        opened.append(path)
        return open_safetensors(path, **options)

    def hashed(*_: object) -> str:
        raise AssertionError("the files were hashed again")

    monkeypatch.setattr("edgelora_converters.peft.reader.open_safetensors", counted)
    monkeypatch.setattr("edgelora_converters.peft.folder.files_digest", hashed)
    source = write_peft(tmp_path / "peft", GQA)
    Store(tmp_path / "store").add(source, name="one", base=base_record(GQA, format=kind), immutable=immutable)
    assert len(opened) == 1
