"""peft.folder: an adapter is found where PEFT puts it, or what is there instead is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgelora_converters.peft.config import CONFIG_NAME
from edgelora_converters.peft.folder import (
    FILES,
    MLX_FILES,
    WEIGHTS_NAME,
    adapter_files,
    adapter_folder,
    find_adapter,
    source_digest,
)
from edgelora_models.errors import AdapterCorrupt, AdapterError, AdapterUnsupported
from tests.support.adapters import TINY, write_peft


def both(*folders: str) -> list[str]:
    return [f"{folder}{name}" for folder in folders for name in FILES]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (both(""), ""),
        (both("", "other/"), ""),
        (both("medical/"), "medical/"),
        (both("medical/", "checkpoint-10/", "medical/deeper/"), "medical/"),
        (both("a/b/"), "a/b/"),
        (both("__MACOSX/", "a/"), "a/"),
    ],
)
def test_the_highest_adapter_is_taken(names: list[str], found: str) -> None:
    """The default one at the root; else the only one below it, whose folder has the adapter's name."""
    assert adapter_folder(names, where="x", depth=2) == found


@pytest.mark.parametrize(
    ("names", "kind", "code"),
    [
        ([], AdapterCorrupt, "adapter_missing"),
        (both("a/b/c/"), AdapterCorrupt, "adapter_missing"),
        (both("checkpoint-10/"), AdapterCorrupt, "adapter_missing"),
        ([CONFIG_NAME], AdapterCorrupt, "adapter_missing"),
        ([WEIGHTS_NAME], AdapterCorrupt, "adapter_missing"),
        (both("a/", "b/"), AdapterUnsupported, "adapter_many"),
        ([CONFIG_NAME, "adapter_model.bin"], AdapterUnsupported, "adapter_is_pickle"),
        ([f"a/{CONFIG_NAME}", "a/adapter_model.pt"], AdapterUnsupported, "adapter_is_pickle"),
        ([CONFIG_NAME, "adapters.safetensors"], AdapterUnsupported, "adapter_is_mlx"),
        (["adapters.safetensors"], AdapterUnsupported, "adapter_is_mlx"),
    ],
)
def test_what_is_there_instead_is_said(names: list[str], kind: type[AdapterError], code: str) -> None:
    """Nothing, too deep, only checkpoints, half of one, several, a pickle, MLX."""
    with pytest.raises(kind) as caught:
        adapter_folder(names, where="x", depth=2)
    assert caught.value.code == code
    assert caught.value.remedy


def test_mlx_where_it_is_asked_for() -> None:
    """mlx-lm's files count only with `mlx`, beside PEFT's not at all; without its configuration it is half of one."""
    mlx = [CONFIG_NAME, "adapters.safetensors", "0000100_adapters.safetensors"]
    assert adapter_folder(mlx, where="x", mlx=True) == "" and adapter_files(mlx) == MLX_FILES
    assert adapter_files([*mlx, WEIGHTS_NAME]) == adapter_files([CONFIG_NAME]) == FILES
    assert adapter_folder([f"a/{name}" for name in mlx], where="x", mlx=True) == "a/"
    for names in ([CONFIG_NAME], ["adapters.safetensors"]):
        with pytest.raises(AdapterCorrupt, match="adapter has it"):
            adapter_folder(names, where="x", mlx=True)


def test_folders_are_looked_into(tmp_path: Path) -> None:
    """An adapter with a name of its own lies one level down; two of them are named."""
    write_peft(tmp_path / "medical-faq", TINY, targets=["q_proj"])
    assert find_adapter(tmp_path) == tmp_path / "medical-faq"
    assert source_digest(find_adapter(tmp_path)) == source_digest(tmp_path / "medical-faq")
    write_peft(tmp_path / "legal", TINY, targets=["q_proj"])
    with pytest.raises(AdapterUnsupported, match=r"2 adapters: 'legal', 'medical-faq'"):
        find_adapter(tmp_path)
    write_peft(tmp_path, TINY, targets=["q_proj"])
    assert find_adapter(tmp_path) == tmp_path


def test_source_digest_is_over_the_two_files_alone(tmp_path: Path) -> None:
    """Other files do not matter; every byte and which file it stands in do."""
    one, two = write_peft(tmp_path / "1", TINY, seed=1), write_peft(tmp_path / "2", TINY, seed=1)
    (two / "README.md").write_text("hello")
    assert source_digest(one) == source_digest(two)
    config = two / CONFIG_NAME
    config.write_text(config.read_text() + "\n")
    assert source_digest(one) != source_digest(two)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
@pytest.mark.parametrize("name", FILES)
def test_special_files_are_refused_unread(tmp_path: Path, name: str) -> None:
    """A pipe would be read for ever."""
    write_peft(tmp_path, TINY, targets=["q_proj"])
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(AdapterCorrupt) as caught:
        find_adapter(tmp_path)
    assert caught.value.code == "not_a_file"
