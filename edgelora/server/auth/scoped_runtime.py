"""The runtime as the current caller may use it: models that the key does not permit are refused and not listed."""

from __future__ import annotations

from typing import Any, cast

from edgelora.core.errors import EdgeloraError, NotFound
from edgelora.core.model_id import split_model_id
from edgelora.core.request import AdapterRef
from edgelora.runtime.interface import Runtime
from edgelora.runtime.model_card import ModelCard
from edgelora.server.auth.caller import caller
from edgelora.server.http.errors import Forbidden


def scoped(runtime: Runtime) -> Runtime:
    """Return the runtime with every model name checked against the caller's key.

    Adapters reach the engine only through `resolve`: nothing else returns a reference to one.
    """
    return cast(Runtime, ScopedRuntime(runtime))


class ScopedRuntime:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def __getattr__(self, name: str) -> Any:
        # Methods that take no model name need no check.
        return getattr(self._runtime, name)

    def models(self) -> list[ModelCard]:
        return [card for card in self._runtime.models() if _visible(card)]

    def model(self, model_id: str) -> ModelCard:
        self.resolve(model_id)
        return self._runtime.model(model_id)

    def resolve(self, model_id: str) -> AdapterRef | None:
        """Resolve a model id. Raises Forbidden (code model_not_allowed), the same whether the model exists or not."""
        try:
            ref = self._runtime.resolve(model_id)
        except EdgeloraError as error:
            if not caller().may_use((split_model_id(model_id).adapter or "").partition("@")[0]):
                raise _refusal(model_id) from None
            raise self._without_others(error) from None
        if not caller().may_use(None if ref is None else ref.name):
            raise _refusal(model_id)
        return ref

    def _without_others(self, error: EdgeloraError) -> EdgeloraError:
        """Return the error with only those near names that the caller may use."""
        if not isinstance(error, NotFound) or error.code != "model_not_found":
            return error
        base = self._runtime.base.name
        near = [name for name in error.near if caller().may_use(None if name == base else name)]
        return NotFound("model", error.name, near)


def _visible(card: ModelCard) -> bool:
    return caller().may_use(None if card.parent is None else card.id)


def _refusal(model_id: str) -> Forbidden:
    return Forbidden(
        "model_not_allowed",
        f"The key {caller().name!r} may not use {model_id!r}.",
        "GET /v1/models lists what it may use.",
        param="model",
    )
