"""The kernel's C against a plain loop in C (driver.c): here, and for arm64 where it can be compiled and emulated."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from edgelora.backends.kernels import native

SOURCES = sorted(str(path) for path in native.PATH.parent.glob("*.c"))
DRIVER = Path(__file__).with_name("driver.c")
SETS = {"host": (), "arm64": (native.INSTRUCTION_SETS["neon"],)}
"""Which instruction sets must have been run, besides whatever there is."""
COMPILERS = {"host": "cc", "arm64": "aarch64-linux-gnu-gcc"}
RUNNERS = {"host": (), "arm64": ("qemu-aarch64-static", "-L", "/usr/aarch64-linux-gnu")}
# As hatch_build.py compiles it, but that warnings are errors, as everywhere in the tests.
FLAGS = ("-O3", "-std=c11", "-fopenmp", "-Wall", "-Wextra", "-Werror", f"-I{native.PATH.parent}")
# Threads that wait must not spin: an emulator has none to spare.
ENVIRON = {"OMP_WAIT_POLICY": "passive"}


@pytest.mark.parametrize("target", ["host", "arm64"])
def test_every_instruction_set_agrees_with_a_plain_loop(target: str, tmp_path: Path) -> None:
    """Random shapes, types, overlapping groups, gates, scales and biases; and a row of a batch has the bits it has
    alone."""
    for tool in (COMPILERS[target], *RUNNERS[target][:1]):
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool}")
    program = tmp_path / "driver"
    command = [COMPILERS[target], *FLAGS, *SOURCES, str(DRIVER), "-o", str(program), "-lm"]
    compiled = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert compiled.returncode == 0, compiled.stderr
    done = subprocess.run(
        [*RUNNERS[target], str(program)], capture_output=True, text=True, timeout=120, env=os.environ | ENVIRON
    )
    assert done.returncode == 0, done.stdout
    for number in (native.INSTRUCTION_SETS["scalar"], *SETS[target]):
        assert f"instruction set {number}\n" in done.stdout
