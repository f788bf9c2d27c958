"""Finding an adapter's two files, and explaining what a folder holds instead. Owns no format of theirs.

PEFT saves the adapter called `default` into the folder itself, and any other into a folder below it that has the
adapter's name. Trainers write checkpoints below it too, which are never taken in place of the adapter.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath

from edgelora_converters.peft.config import CONFIG_NAME
from edgelora_converters.tensors.files_digest import files_digest
from edgelora_models.errors import AdapterCorrupt, AdapterUnsupported
from edgelora_models.files import quoted, regular_size, unreadable

WEIGHTS_NAME = "adapter_model.safetensors"
FILES = (CONFIG_NAME, WEIGHTS_NAME)
"""All of an adapter: nothing else in the folder is read."""
MLX_WEIGHTS_NAME = "adapters.safetensors"
MLX_FILES = (CONFIG_NAME, MLX_WEIGHTS_NAME)
"""The same of an adapter that mlx-lm trained."""
PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt"})

_CHECKPOINT = re.compile(r"checkpoint-\d+")


def adapter_folder(names: Collection[str], *, where: str, depth: int = 1, mlx: bool = False) -> str:
    """Return the folder of the adapter among a folder's, archive's or repository's files: "" for the root, else
    `some/folder/`.

    `names` are paths with `/`; `where` names their place in messages. The highest folder with a configuration is taken,
    at most `depth` below the root, if it is the only one of its height. `mlx`: whether it may be mlx-lm's. Raises
    AdapterUnsupported where there are several or a pickle, AdapterCorrupt where there is none or half of one.
    """
    folders = sorted({name.removesuffix(CONFIG_NAME) for name in names if PurePosixPath(name).name == CONFIG_NAME})
    near = [f for f in folders if f.count("/") <= depth and not f.startswith("__MACOSX/")]
    trained = [f for f in near if not _CHECKPOINT.fullmatch(PurePosixPath(f).name)]
    highest = [f for f in trained if f.count("/") == min(f.count("/") for f in trained)]
    if len(highest) > 1:
        raise _many(highest, where)
    if not highest:
        raise _missing(names, folders, where, mlx=mlx)
    weights = adapter_files(names, highest[0])[1] if mlx else WEIGHTS_NAME
    if f"{highest[0]}{weights}" not in names:
        raise _half(names, highest[0], where)
    return highest[0]


def adapter_files(names: Collection[str], folder: str = "") -> tuple[str, str]:
    """Return the names of the adapter's two files in `folder`: MLX_FILES where only mlx-lm's weights are there, else
    FILES."""
    mlx = f"{folder}{MLX_WEIGHTS_NAME}" in names and f"{folder}{WEIGHTS_NAME}" not in names
    return MLX_FILES if mlx else FILES


def find_adapter(folder: Path, *, mlx: bool = False) -> Path:
    """Return the folder that holds the adapter's two files: `folder` itself, or the one below it.

    Raises AdapterCorrupt, AdapterUnsupported (a pickle, several adapters, an MLX adapter unless `mlx`), StorageError.
    """
    try:
        if not folder.is_dir():
            raise AdapterCorrupt(
                "adapter_missing", f"{folder} is not a folder.", "Give the folder PEFT saved the adapter in."
            )
        adapter = folder / adapter_folder(_names(folder), where=str(folder), mlx=mlx)
        files = folder_files(adapter) if mlx else FILES
    except OSError as e:
        raise unreadable(folder, e) from e
    for name in files:
        regular_size(adapter / name, error=AdapterCorrupt)
    return adapter


def folder_files(folder: Path) -> tuple[str, str]:
    """Return `adapter_files` of a folder that `find_adapter` found. Raises OSError."""
    return adapter_files({path.name for path in folder.iterdir()})


def source_digest(folder: Path) -> str:
    """Return `files_digest` of the two files in FILES.

    What else the folder holds (a README, a tokenizer) does not matter: it does not change what the adapter computes.
    """
    return files_digest(folder, FILES)


def refuse_pickle(name: str) -> AdapterUnsupported:
    """Return the error for weights in Python's pickle form, which can run any code when it is read."""
    return AdapterUnsupported(
        "adapter_is_pickle",
        f"{quoted(name)} is a Python pickle, which can run any code when it is read, so it is never opened.",
        "Load the adapter with PEFT where it was trained and save it again with save_pretrained(folder), "
        f"which writes {WEIGHTS_NAME}.",
    )


def _names(folder: Path) -> set[str]:
    """Return the relevant file names in a folder and one level below it."""
    names = {path.name for path in folder.iterdir()}
    return names | {f"{path.parent.name}/{path.name}" for path in folder.glob("*/adapter*")}


def _many(folders: Iterable[str], where: str) -> AdapterUnsupported:
    names = sorted(folders)
    return AdapterUnsupported(
        "adapter_many",
        f"{where} holds {len(names)} adapters: {', '.join(quoted(name.rstrip('/')) for name in names[:20])}.",
        "Give one of them.",
    )


def _half(names: Collection[str], folder: str, where: str) -> AdapterCorrupt | AdapterUnsupported:
    """Return the error for a configuration without weights beside it."""
    beside = sorted(name for name in names if name.startswith(folder) and "/" not in name[len(folder) :])
    pickle = next((name for name in beside if PurePosixPath(name).suffix in PICKLES), None)
    if pickle is not None:
        return refuse_pickle(pickle)
    if f"{folder}{MLX_WEIGHTS_NAME}" in names:
        return _mlx(where)
    return _lacking(WEIGHTS_NAME, where)


def _missing(
    names: Collection[str], folders: list[str], where: str, *, mlx: bool
) -> AdapterCorrupt | AdapterUnsupported:
    """Return the error for a folder without a configuration where one is looked for."""
    if not mlx and MLX_WEIGHTS_NAME in names:
        return _mlx(where)
    gguf = sorted(name for name in names if "/" not in name and name.endswith(".gguf"))
    if mlx and gguf and not folders:
        message = f"{where} does not hold {CONFIG_NAME}, but a GGUF file."
        return AdapterCorrupt("adapter_missing", message, f"If that is the adapter, give the file: {quoted(gguf[0])}.")
    inner = quoted(folders[0].rstrip("/")) if folders else ""
    return _lacking(CONFIG_NAME, where, f"; it may be {inner} within it" if folders else "")


def _mlx(where: str) -> AdapterUnsupported:
    return AdapterUnsupported(
        "adapter_is_mlx",
        f"{where} holds an MLX adapter.",
        "Install it as it is (edgelora add FOLDER), or convert it (edgelora convert FOLDER --to peft -o OUT).",
    )


def _lacking(name: str, where: str, hint: str = "") -> AdapterCorrupt:
    return AdapterCorrupt(
        "adapter_missing",
        f"{where} does not hold {name} where an adapter has it.",
        f"Give the folder PEFT saved the adapter in{hint}.",
    )
