"""A key's permissions hold whichever way a name is written, and tell nothing of the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from edgelora.core.errors import NotFound
from edgelora.runtime.interface import Runtime
from edgelora.server.auth.caller import ANYONE, Call, Caller, set_call
from edgelora.server.auth.scoped_runtime import scoped
from edgelora.server.http.errors import Forbidden
from tests.support.service import FakeService

CLINIC = Caller("clinic", adapters=("medical-*",), base=False)
BASE_ONLY = Caller("base-only", adapters=())


@pytest.fixture(scope="module")
def adapters() -> Mapping[str, str | None]:
    return {"medical-faq": None, "medical-notes": None, "mediocre": None}


@pytest.fixture
def runtime(service: FakeService) -> Iterator[Runtime]:
    yield scoped(service)
    set_call(Call())


def refused(runtime: Runtime, name: str) -> str:
    with pytest.raises(Forbidden) as caught:
        runtime.resolve(name)
    assert (caught.value.code, caught.value.status, caught.value.param) == ("model_not_allowed", 403, "model")
    return str(caught.value).replace(name, "NAME")


def test_without_a_key_everything_is_there(runtime: Runtime) -> None:
    """A caller without a key sees every model."""
    set_call(Call(ANYONE))
    assert [card.id for card in runtime.models()] == ["tiny", "medical-faq", "medical-notes", "mediocre"]
    assert runtime.resolve("tiny") is None and runtime.model("mediocre").id == "mediocre"


@pytest.mark.parametrize("name", ["medical-faq", "medical-faq@1", "tiny:medical-faq"])
def test_what_a_key_permits(runtime: Runtime, name: str) -> None:
    """In every form of its name."""
    set_call(Call(CLINIC))
    ref = runtime.resolve(name)
    assert ref is not None and ref.name == "medical-faq" and runtime.model(name).parent == "tiny"


@pytest.mark.parametrize("name", ["mediocre", "mediocre@1", "tiny:mediocre", "tiny", "nothing", "tiny:nothing"])
def test_what_it_does_not_permit(runtime: Runtime, name: str) -> None:
    """Other adapters, the base, and names that there are not are refused in one and the same words."""
    set_call(Call(CLINIC))
    assert refused(runtime, name) == refused(runtime, "mediocre")
    with pytest.raises(Forbidden):
        runtime.model(name)


def test_lists_hold_what_is_permitted(runtime: Runtime) -> None:
    """GET /v1/models is no catalogue of other people's adapters."""
    set_call(Call(CLINIC))
    assert [card.id for card in runtime.models()] == ["medical-faq", "medical-notes"]
    set_call(Call(BASE_ONLY))
    assert [card.id for card in runtime.models()] == ["tiny"]


def test_near_names_are_permitted_ones(runtime: Runtime) -> None:
    """A mistyped name within the pattern is a 404 whose hint names nothing else."""
    set_call(Call(CLINIC))
    with pytest.raises(NotFound) as caught:
        runtime.resolve("medical-faqq")
    assert caught.value.near and set(caught.value.near) <= {"medical-faq", "medical-notes"}
    assert caught.value.code == "model_not_found"


def test_a_key_for_the_base_alone(runtime: Runtime) -> None:
    """It uses the base, and no adapter."""
    set_call(Call(BASE_ONLY))
    assert runtime.resolve("tiny") is None
    refused(runtime, "medical-faq")


def test_the_rest_is_the_runtimes_own(runtime: Runtime, service: FakeService) -> None:
    """Methods without a model name are the runtime's own."""
    assert (
        runtime.base.name == "tiny"
        and runtime.health().state == "ready"
        and runtime.default_sampling() == service.default_sampling()
    )
    with pytest.raises(AttributeError):
        _ = runtime.nothing_of_the_kind  # type: ignore[attr-defined]
