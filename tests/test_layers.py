"""Who may import whom, read from the sources: models <- converters <- edgelora, and the layers inside edgelora."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "edgelora_models": ROOT / "models" / "edgelora_models",
    "edgelora_converters": ROOT / "converters" / "edgelora_converters",
    "edgelora": ROOT / "edgelora",
}
PURE = (
    *("core", "states", "sequence", "plan", "planning", "places", "warm", "scheduler"),
    *("acceptance", "drafts", "speculation"),
    *("costs", "pieces", "turns", "lines"),
    *("sampling", "scores", "tools", "grammar", "calls"),
    *("text", "adapters.pool", "leases", "sharing", "failures"),
    *("adapters.tally", "occupancy"),
)
"""No I/O, no clock, no threads: these see values, the backend protocol and each other."""
PURE_MAY_USE = {f"edgelora.{name}" for name in PURE} | {"edgelora.errors", "edgelora.backends.base"}
OUTSIDE = {"asyncio", "io", "os", "queue", "random", "socket", "subprocess", "threading", "time"}
EDGES = ("edgelora.server", "edgelora.cli")
ENTRY = {"edgelora.__main__"}
"""`python -m edgelora` is the command line."""


def modules() -> dict[str, Path]:
    """Every module's dotted name and file."""
    return {
        ".".join((package, *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__"): path
        for package, root in PACKAGES.items()
        for path in root.rglob("*.py")
    }


MODULES = modules()


def imports(name: str) -> Iterator[str]:
    """What a module imports anywhere in it, lazily and for typing included; `from a import b` gives a.b too."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
            source = ".".join(filter(None, (base if node.level else "", node.module or "")))
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def offenders(importers: Iterator[str], forbidden: tuple[str, ...]) -> list[str]:
    return sorted(
        f"{name} imports {module}"
        for name in importers
        for module in set(imports(name))
        if any(within(module, package) for package in forbidden)
    )


def below(*packages: str) -> Iterator[str]:
    return (name for name in MODULES if any(within(name, package) for package in packages))


def test_the_sources_are_found() -> None:
    """The rules below look at something, and see lazy and relative imports too."""
    assert all(any(within(name, package) for name in MODULES) for package in PACKAGES)
    assert all(f"edgelora.{name}" in MODULES for name in PURE)
    assert "jinja2.sandbox" in set(imports("edgelora.template"))
    assert "edgelora.scheduler" in set(imports("edgelora.engine"))


def test_models_import_no_other_package() -> None:
    """The lowest layer stands alone."""
    assert offenders(below("edgelora_models"), ("edgelora_converters", "edgelora")) == []


def test_converters_do_not_import_the_runtime() -> None:
    """A conversion runs without the engine."""
    assert offenders(below("edgelora_converters"), ("edgelora",)) == []


def test_nobody_imports_the_edges() -> None:
    """The server and the command line use the runtime; the runtime does not know them."""
    inside = (name for name in MODULES if not any(within(name, edge) for edge in EDGES) and name not in ENTRY)
    assert offenders(inside, EDGES) == []


def test_the_server_does_not_import_the_command_line() -> None:
    """The command line starts the server, not the other way round."""
    assert offenders(below("edgelora.server"), ("edgelora.cli",)) == []


@pytest.mark.parametrize("name", PURE)
def test_the_core_is_pure(name: str) -> None:
    """Of the runtime only each other, the errors and the backend protocol; nothing that reads a clock or the world."""
    found = set(imports(f"edgelora.{name}"))
    ours = {module for module in found if within(module, "edgelora") and module in MODULES}
    assert ours - PURE_MAY_USE - {"edgelora", "edgelora.adapters", "edgelora.backends"} == set()
    assert {module.partition(".")[0] for module in found} & OUTSIDE == set()


def test_the_engine_knows_no_backend_but_the_protocol() -> None:
    """Which backend it drives is chosen above it."""
    for name in ("engine", "run", "commands", "stream", "prompt", "adapters.loader"):
        found = {module for module in imports(f"edgelora.{name}") if within(module, "edgelora.backends")}
        assert all(within(module, "edgelora.backends.base") or module == "edgelora.backends" for module in found), name
