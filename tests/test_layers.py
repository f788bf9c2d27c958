"""Who may import whom, folder by folder: a folder imports only what stands below it.

Read from the sources: lazy imports and imports for typing count like all others.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "edgelora_models": ROOT / "models" / "edgelora_models",
    "edgelora_converters": ROOT / "converters" / "edgelora_converters",
    "edgelora": ROOT / "edgelora",
}
"""From the lowest up: a package imports itself and those before it."""
WINGS = (
    ("core",),
    ("text",),
    ("backends", "store"),
    ("engine",),
    ("runtime",),
    ("training",),
    ("server",),
    ("cli",),
)
"""The folders of edgelora from the lowest up. Two on one level do not import each other."""
PURE = ("text", "engine.scheduler", "engine.cost_model", "engine.speculative", "engine.sampling")
OUTSIDE = {
    *("asyncio", "datetime", "io", "logging", "multiprocessing", "os", "pathlib", "queue", "random", "select"),
    *("shutil", "signal", "socket", "ssl", "subprocess", "tempfile", "threading", "time"),
}
"""What reads the world, a clock or another thread."""

Edges = Mapping[str, set[str]]


def modules(packages: Mapping[str, Path] = PACKAGES) -> dict[str, Path]:
    """Every module's dotted name and file."""
    return {
        ".".join((package, *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__"): path
        for package, root in packages.items()
        for path in root.rglob("*.py")
    }


def imports(path: Path) -> Iterator[str]:
    """What a module imports anywhere in it. `from a import b` gives a.b and a. No import here is relative."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, path
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def edges(files: Mapping[str, Path]) -> dict[str, set[str]]:
    """The modules of ours that each module imports, the longest name of each import."""
    return {name: {target for target in imports(path) if target in files} - {name} for name, path in files.items()}


FILES = modules()
EDGES = edges(FILES)


def folder(module: str) -> str:
    """The folder a module stands in; a package's `__init__` stands in its own."""
    return module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]


def level(module: str) -> int:
    """How high a module stands; what is in edgelora's own folder, `__main__` and `__init__`, above all."""
    package, _, rest = module.partition(".")
    if package != "edgelora":
        return list(PACKAGES).index(package)
    wing = rest.partition(".")[0]
    return next((n for n, wings in enumerate(WINGS, len(PACKAGES)) if wing in wings), 99)


def upward(graph: Edges) -> list[str]:
    """The imports of what stands higher, or beside on the same level in another wing."""
    return sorted(
        f"{name} imports {target}"
        for name, targets in graph.items()
        for target in targets
        if level(target) > level(name)
        or (level(target) == level(name) and target.split(".")[:2] != name.split(".")[:2] and level(name) > 2)
    )


def cycle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_folder_has_its_level() -> None:
    """No wing is missing from the rule, and the rule names none that is gone."""
    wings = {path.name for path in (ROOT / "edgelora").iterdir() if (path / "__init__.py").is_file()}
    assert wings == {wing for row in WINGS for wing in row}
    assert {name for name in FILES if name.startswith("edgelora.") and level(name) == 99} == {"edgelora.__main__"}


def test_imports_run_down() -> None:
    """models <- converters <- edgelora, and inside edgelora wing by wing."""
    assert upward(EDGES) == []


def test_an_import_upward_is_found(tmp_path: Path) -> None:
    """A planted one, lazy and for typing; and one between two wings of the same level."""
    planted = tmp_path / "planted.py"
    planted.write_text("def f():\n    from edgelora.server import app\n", encoding="utf-8")
    found = {target for target in imports(planted) if target in FILES}
    assert upward({"edgelora.core.errors": found}) == [
        f"edgelora.core.errors imports {name}" for name in ("edgelora.server", "edgelora.server.app")
    ]
    assert upward({"edgelora.store.library": {"edgelora.backends.base"}}) != []
    assert upward({"edgelora_models.shape": {"edgelora_converters.errors"}}) != []
    assert upward({"edgelora.server.app": {"edgelora.core.errors"}}) == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Not for typing and not lazily either."""
    assert cycle(EDGES) == []


def between_folders(graph: Edges) -> dict[str, set[str]]:
    """The folders that each folder imports from."""
    folders: dict[str, set[str]] = {}
    for name, targets in graph.items():
        folders.setdefault(folder(name), set()).update(folder(target) for target in targets)
    return {name: targets - {name} for name, targets in folders.items()}


def test_no_folder_imports_itself_by_way_of_others() -> None:
    """Folders are layers too, over all three packages."""
    assert cycle(between_folders(EDGES)) == []


def test_a_cycle_of_folders_is_found() -> None:
    """A planted one: no module imports itself by way of others, and their folders do."""
    planted = {
        **EDGES,
        "edgelora.server.generation.sse": {"edgelora.server.api.together.parts"},
        "edgelora.server.api.together.parts": {"edgelora.server.generation.choice_writer"},
    }
    assert cycle(planted) == []
    assert {"edgelora.server.generation", "edgelora.server.api.together"} <= set(cycle(between_folders(planted)))


def pure() -> list[str]:
    return [name for name in FILES if any(f"{name}.".startswith(f"edgelora.{folder}.") for folder in PURE)]


@pytest.mark.parametrize("name", pure())
def test_the_pure_folders_read_no_world(name: str) -> None:
    """No I/O, no clock, no thread; and of edgelora only what is as pure, the core and the backend protocol."""
    assert {target.partition(".")[0] for target in imports(FILES[name])} & OUTSIDE == set()
    beside = {f"edgelora.engine.adapters.{module}" for module in ("counts", "limits", "pool")}
    allowed = {*pure(), *beside, "edgelora.backends.base"}
    ours = {target for target in EDGES[name] if FILES[target].name != "__init__.py"}
    assert {target for target in ours - allowed if not target.startswith("edgelora.core.")} == set()


def test_the_engine_knows_no_backend_but_the_protocol() -> None:
    """Which backend it drives is chosen above it."""
    engine = [name for name in FILES if name.startswith("edgelora.engine.")]
    used = {target for name in engine for target in EDGES[name] if target.startswith("edgelora.backends.")}
    assert used <= {"edgelora.backends.base", "edgelora.backends.ledger"}
