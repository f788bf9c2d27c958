"""What pyproject.toml promises: dependencies that are used, imports that are declared, and a uvicorn that was tried."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import uvicorn.server
from uvicorn.protocols.http.h11_impl import H11Protocol

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("edgelora", "converters/edgelora_converters", "models/edgelora_models")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
UVICORN = version("uvicorn")
MODULES = {"python-multipart": "python_multipart", "llama-cpp-python": "llama_cpp", "mlx-lm": "mlx_lm"}
"""Import names of distributions that are called otherwise."""
INDIRECT = {"h11", "anyio"}
"""Imports that another declared dependency always brings."""


def modules(requirements: list[str]) -> set[str]:
    names = {re.split(r"[^\w.-]", requirement)[0] for requirement in requirements}
    return {MODULES.get(name, name) for name in names}


DEPENDENCIES = modules(PROJECT["project"]["dependencies"])
OPTIONAL = modules([text for extra in PROJECT["project"]["optional-dependencies"].values() for text in extra])


def imported() -> dict[str, set[str]]:
    """The other distributions that the three packages import, lazily too, each with the files that do."""
    imports: dict[str, set[str]] = {}
    ours = {Path(package).name for package in PACKAGES}
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in {name.partition(".")[0] for name in names} - ours - sys.stdlib_module_names:
                imports.setdefault(name, set()).add(path.relative_to(ROOT).as_posix())
    return imports


def test_every_import_is_declared() -> None:
    """The packages import nothing that `pip install edgelora` or an extra does not bring."""
    undeclared = {name: files for name, files in imported().items() if name not in DEPENDENCIES | OPTIONAL | INDIRECT}
    assert undeclared == {}


def test_every_dependency_is_imported() -> None:
    """What only tests use belongs to their extra."""
    assert DEPENDENCIES - imported().keys() == set()


def test_the_wheel_has_three_packages() -> None:
    """No generic name such as `tests` or `benchmarks`, and no test double."""
    assert PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == list(PACKAGES)
    for package in PACKAGES:
        names = {path.stem for path in (ROOT / package).rglob("*.py")}
        assert not {name for name in names if re.search(r"(^|_)(fake|mock|stub|test)", name)}, package


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def test_uvicorn_is_bounded_and_the_installed_one_is_within() -> None:
    """A minor release may change the private names that the server overrides: each is tried before it is allowed."""
    (requirement,) = [text for text in PROJECT["project"]["dependencies"] if text.startswith("uvicorn")]
    bounds = re.fullmatch(r"uvicorn>=([\d.]+),<([\d.]+)", requirement)
    assert bounds, f"{requirement!r} has no upper bound"
    low, high = numbers(bounds[1]), numbers(bounds[2])
    installed = numbers(UVICORN)
    assert low <= installed < high, f"uvicorn {UVICORN} is not within {requirement!r}"


@pytest.mark.parametrize(
    ("owner", "name", "parameters", "used_in"),
    [
        (H11Protocol, "_unset_keepalive_if_required", ["self"], "server/http/h11_protocol.py calls"),
        (H11Protocol, "send_400_response", ["self", "msg"], "server/http/h11_protocol.py overrides"),
        (H11Protocol, "connection_made", ["self", "transport"], "server/http/h11_protocol.py overrides"),
        (H11Protocol, "connection_lost", ["self", "exc"], "server/http/h11_protocol.py overrides"),
        (H11Protocol, "data_received", ["self", "data"], "server/http/h11_protocol.py overrides"),
        (H11Protocol, "pause_writing", ["self"], "server/http/h11_protocol.py overrides"),
        (H11Protocol, "resume_writing", ["self"], "server/http/h11_protocol.py overrides"),
        (uvicorn.Server, "capture_signals", ["self"], "server/run.py overrides"),
        (uvicorn.Server, "handle_exit", ["self", "sig", "frame"], "server/run.py overrides"),
        (uvicorn.Server, "startup", ["self", "sockets"], "server/run.py overrides"),
        (uvicorn.Server, "shutdown", ["self", "sockets"], "server/run.py overrides"),
    ],
)
def test_the_names_of_uvicorn_that_the_server_relies_on(
    owner: type[Any], name: str, parameters: list[str], used_in: str
) -> None:
    """Each exists with the parameters that the override has; the message says where to look."""
    method: Callable[..., Any] | None = getattr(owner, name, None)
    assert method is not None, f"uvicorn {UVICORN} has no {owner.__name__}.{name}, which edgelora/{used_in}"
    actual = list(inspect.signature(method).parameters)
    assert actual == parameters, f"uvicorn {UVICORN}: {owner.__name__}.{name} takes {actual}; edgelora/{used_in} it"


def test_uvicorn_still_calls_what_is_overridden() -> None:
    """An override that nothing calls any more would be silently without effect."""
    protocol = inspect.getsource(H11Protocol)
    server = inspect.getsource(uvicorn.server)
    assert "self.send_400_response(" in protocol, f"uvicorn {UVICORN} answers malformed HTTP in another way"
    assert "self.capture_signals()" in server, f"uvicorn {UVICORN} takes signals in another way"
    assert uvicorn.server.HANDLED_SIGNALS, f"uvicorn {UVICORN} has no HANDLED_SIGNALS (server/run.py)"
    for name in ("access_log", "cycle", "transport", "loop"):
        assert f"self.{name}" in protocol, f"uvicorn {UVICORN}: H11Protocol has no attribute {name!r}"
