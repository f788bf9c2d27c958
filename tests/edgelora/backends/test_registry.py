"""A backend is a folder and one line: the registry finds it, and nothing else decides by its name."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from edgelora.backends.registry import SPECS, spec, spec_for, specs
from edgelora.backends.spec import BaseFiles, BaseFormat
from edgelora.core.config import KV_TYPES, BackendChoice, read_settings
from edgelora.store.adapters.conversions import USUAL
from edgelora.store.bases.selection import RUNS
from tests.support.adapters import TINY

ROOT = Path(__file__).resolve().parents[3] / "edgelora"
FREE_OF_FORMATS = ("engine", "runtime", "server", "cli", "text")
"""The wings in which nothing asks whether something is MLX's or llama.cpp's."""


def test_every_choice_has_a_backend() -> None:
    """`--backend` names just those of the registry, each opens a format of its own, and finds itself by it."""
    assert set(SPECS) == set(get_args(BackendChoice)) - {"auto"} == {found.name for found in specs()}
    assert sorted(found.base_format for found in specs()) == sorted(get_args(BaseFormat))
    assert all(spec_for(found.base_format) is spec(found.name) for found in specs())


def test_the_store_agrees_with_the_specs() -> None:
    """The store stands beside the backends and imports none of them, so it has two tables of its own."""
    assert {found.name: found.base_format for found in specs()} == RUNS
    assert {found.base_format: found.adapter_format for found in specs()} == USUAL


def test_a_backend_is_available_where_its_package_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp always is; MLX is not where mlx is missing, and asking imports nothing."""
    assert spec("llama.cpp").available
    monkeypatch.setattr("edgelora.backends.mlx.open.find_spec", lambda _name: None)
    assert not spec("mlx").available


@pytest.mark.parametrize("name", SPECS)
def test_a_kv_type_it_has_is_taken(name: str) -> None:
    """The type that is planned is one of its own, and takes two or more bytes a value but for quantized ones."""
    backend, base = spec(name), BaseFiles("tiny", Path("tiny"), TINY, 1000)
    chosen = backend.kv_type(base, read_settings({}))
    assert backend.kv_types[0] == "f16"
    assert chosen in backend.kv_types and set(backend.kv_types) <= set(KV_TYPES)
    values = 2 * TINY.layers * TINY.kv_width
    assert backend.kv_token_bytes(base, "f16") == 2 * values and backend.kv_token_bytes(base, "f32") == 4 * values


def test_specs_load_no_native_library() -> None:
    """Neither llama.cpp nor MLX is imported before a base is opened."""
    script = (
        "import sys; from edgelora.backends.registry import specs; list(specs());"
        "print({'llama_cpp', 'mlx', 'mlx.core', 'gguf'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def formats_compared(path: Path) -> list[int]:
    """Lines on which something named `format` is compared with a base's format."""
    compared = (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Compare))
    return [
        node.lineno
        for node in compared
        if any(isinstance(part, ast.Attribute) and part.attr == "format" for part in ast.walk(node))
        and any(isinstance(part, ast.Constant) and part.value in get_args(BaseFormat) for part in ast.walk(node))
    ]


def test_nothing_above_decides_by_the_format(tmp_path: Path) -> None:
    """A decision by a base's format belongs into a spec; a planted one is found."""
    files = [path for wing in FREE_OF_FORMATS for path in (ROOT / wing).rglob("*.py")]
    assert {path: lines for path in files if (lines := formats_compared(path))} == {}
    planted = tmp_path / "planted.py"
    planted.write_text('if record.format == "mlx":\n    pass\n', encoding="utf-8")
    assert formats_compared(planted) == [1]
