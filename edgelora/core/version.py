"""The installed version of the package, read from its metadata on first use."""

from __future__ import annotations


def __getattr__(name: str) -> object:
    if name == "__version__":
        return _version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("edgelora")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+source"
