"""Build hook: compiles the native LoRA kernel into the wheel, or beside its source for an editable installation.

Without a compiler the wheel is pure Python and edgelora computes with numpy. See docs/decisions/0003-native-kernel.md.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("edgelora", "backends", "kernels")
SOURCES = ("lora.c", "evaluate.c")
SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
TARGET = FOLDER / f"_lora{SUFFIX}"
# No -march=native: the wheel must run elsewhere, and the kernel chooses its instructions when it runs.
FLAGS = ["-O3", "-std=c11", "-shared", "-fvisibility=hidden", *([] if sys.platform == "win32" else ["-fPIC"])]


class NativeKernelHook(BuildHookInterface[Any]):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        editable = version == "editable"
        self._folder = tempfile.mkdtemp(prefix="edgelora-kernel-")
        built = Path(self._folder, TARGET.name)
        installed = Path(self.root, TARGET)
        if editable:
            installed.unlink(missing_ok=True)
        complaints = _compile([Path(self.root, FOLDER, name) for name in SOURCES], built)
        if not built.is_file():
            self.app.display_warning("\n".join(complaints))
            self.app.display_warning(
                "edgelora: no C compiler could build the native kernel; adapters will be computed with numpy, which is"
                " slower. Install gcc or clang (or set CC) and install again."
            )
            return
        if editable:
            shutil.move(built, installed)
        else:
            build_data["force_include"][str(built)] = TARGET.as_posix()
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform()}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if folder := getattr(self, "_folder", None):
            shutil.rmtree(folder, ignore_errors=True)


def _compile(sources: list[Path], target: Path) -> list[str]:
    """Make `target` with the first compiler that can; what those before it said."""
    complaints = []
    for compiler in _compilers():
        # The threads are ggml's where it was built with the same OpenMP; without OpenMP the kernel uses one thread.
        for threads in (["-fopenmp"], []):
            command = [*compiler, *FLAGS, *threads, *map(str, sources), "-o", str(target)]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            except (OSError, subprocess.TimeoutExpired) as error:
                complaints.append(f"{shlex.join(command)}: {error}")
                break
            if done.returncode == 0:
                return complaints
            complaints.append(f"{shlex.join(command)}:\n{done.stderr}")
            target.unlink(missing_ok=True)
    return complaints


def _compilers() -> list[list[str]]:
    chosen = os.environ.get("CC")
    return [shlex.split(chosen)] if chosen else [["cc"], ["gcc"], ["clang"]]


def _platform() -> str:
    name = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    # A Python for both kinds of Mac; the compiler made the library for this one.
    return name.replace("universal2", os.uname().machine) if name.endswith("universal2") else name
