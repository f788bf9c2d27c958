"""vLLM's /v1/load_lora_adapter and /v1/unload_lora_adapter, for installed adapters and allowed folders.

vLLM opens any path. Here a path must be below an `--adapter-root` after links are resolved, and the reply does not show
whether a path outside exists.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from edgelora.core.errors import UsageError
from edgelora.runtime.install.sources import LOADED, InstalledSource, PathSource, Source
from edgelora.server.http.endpoint import TEXT, Access, Endpoint
from edgelora.server.http.validation import invalid, typed
from edgelora.server.management.jobs import Task
from edgelora.server.management.manager import Manager, in_thread

Text = Annotated[str, Meta(min_length=1, max_length=4096)]


class LoadAdapterBody(Struct, frozen=True):
    lora_name: Text
    lora_path: Text
    """A folder or archive below an allowed root, or the name of an installed adapter."""
    load_inplace: bool = False


class UnloadAdapterBody(Struct, frozen=True):
    lora_name: Text


class VllmRoutes:
    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._registry = manager.registry

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (
            Endpoint(
                "POST", "/v1/load_lora_adapter", self.load, Access.MANAGEMENT, "loadLoraAdapter",
                "Install and load an adapter through vLLM's API", body=LoadAdapterBody, reply_media=TEXT,
            ),
            Endpoint(
                "POST", "/v1/unload_lora_adapter", self.unload, Access.MANAGEMENT, "unloadLoraAdapter",
                "Unload an adapter through vLLM's API", body=UnloadAdapterBody, reply_media=TEXT,
            ),
        )  # fmt: skip

    async def load(self, request: Request) -> Response:
        """Install the adapter as `lora_name`, unless it is installed so already, and load it."""
        body = typed(await self._manager.read(request), LoadAdapterBody)
        name = self._registry.library.store.check_name(body.lora_name)
        source = await in_thread(lambda: self._source(body))
        warnings = ""
        if source is not None:
            installed = await self._manager.install(Task("load", name, str(source)), source)
            warnings = "".join(f" Warning: {warning.message}" for warning in installed.version.warnings)
        await in_thread(lambda: self._registry.warm(name))
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.{warnings}")

    async def unload(self, request: Request) -> Response:
        """Uninstall an adapter that `load` installed; unpin one that was installed otherwise."""
        body = typed(await self._manager.read(request), UnloadAdapterBody)
        await in_thread(lambda: self._unload(body.lora_name))
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    def _source(self, body: LoadAdapterBody) -> Source | None:
        """Return the source to install; None if the name is that adapter already."""
        store, name = self._registry.library.store, body.lora_name
        installed = name in store.names()
        if body.lora_path.partition("@")[0] in store.names():
            manifest, version = store.resolve(body.lora_path)
            if installed and version.digest == store.get(name).latest.digest:
                return None
            if manifest.name == name:
                raise invalid(
                    "lora_path", "names another version of the adapter: roll back, or use name@version as the model"
                )
            source: Source = InstalledSource(body.lora_path)
        else:
            source = PathSource(allowed_path(body.lora_path, self._manager.options.adapter_roots))
        if installed and not body.load_inplace:
            message = f"The lora adapter {name!r} has already been loaded."
            raise UsageError("already_loaded", message, "Set 'load_inplace' to true, or unload it.", param="lora_name")
        return source

    def _unload(self, name: str) -> None:
        manifest = self._registry.get(name).manifest
        if all(version.origin == LOADED for version in manifest.versions):
            self._registry.remove(manifest.name)
        else:
            self._registry.unpin(name)


def allowed_path(text: str, roots: Sequence[Path]) -> Path:
    """Return the folder or archive that `text` names below one of `roots`, with links resolved.

    A relative path is looked for below each root. Raises the same UsageError for every path that is not below a root,
    whether it exists or not.
    """
    for root in roots:
        try:
            base = root.resolve(strict=True)
            path = (base / text).resolve(strict=True)
            if path.is_relative_to(base) and all(file.is_relative_to(base) for file in _opened(path)):
                return path
        except (OSError, ValueError, RuntimeError):  # it does not exist, is no valid path, or its links form a circle
            continue
    raise UsageError(
        "path_not_allowed",
        "The field 'lora_path' names neither an installed adapter nor a path below an allowed folder.",
        "Install it (edgelora add), or start the server with --adapter-root DIR.",
        param="lora_path",
    )


def _opened(path: Path) -> list[Path]:
    """Return the real paths of the files that installing `path` would read."""
    if path.is_file():
        return [path]
    # An adapter is in the folder or in one directly below it, and the names of all its files begin like this.
    return [file.resolve(strict=True) for pattern in ("adapter*", "*/adapter*") for file in path.glob(pattern)]
