"""The memory of responses: bounded by count, bytes and time, and nobody's but its owner's."""

from __future__ import annotations

from contextlib import suppress

import pytest

from edgelora.core.errors import NotFound
from edgelora.server.api.responses.store import ResponseStore, ResponseStoreLimits, StoredResponse
from edgelora.server.api.responses.types import InputText, MessageItem, OutputText, ResponseObject


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _kept(number: int, *, text: str = "Hi", owner: str = "") -> StoredResponse:
    message = MessageItem(id=f"msg_{number}", role="user", content=[InputText(text)])
    answer = MessageItem(id=f"msg_a{number}", role="assistant", content=[OutputText("Yes.")])
    response = ResponseObject(
        id=f"resp_{number}", created_at=0, status="completed", instructions=None, max_output_tokens=None, metadata={},
        model="tiny", output=[answer], previous_response_id=None, store=True, temperature=0.0, text={},
        parallel_tool_calls=True, tool_choice="auto", tools=[], top_p=1.0,
    )  # fmt: skip
    return StoredResponse(response, (), (message,), owner)


def _ids(store: ResponseStore) -> list[int]:
    ids = []
    for number in range(20):
        with suppress(NotFound):
            store.get(f"resp_{number}", owner="")
            ids.append(number)
    return ids


def test_a_stored_response_has_its_conversation() -> None:
    """In the order it was said: what was before, the input, the answer."""
    store = ResponseStore(ResponseStoreLimits(), clock=Clock())
    store.put(_kept(1))
    assert [item.id for item in store.get("resp_1", owner="").conversation] == ["msg_1", "msg_a1"]


def test_the_least_recently_used_makes_room() -> None:
    """By count: who was asked for stays."""
    store = ResponseStore(ResponseStoreLimits(count=2), clock=Clock())
    store.put(_kept(1))
    store.put(_kept(2))
    store.get("resp_1", owner="")
    store.put(_kept(3))
    assert _ids(store) == [1, 3] and len(store) == 2


def test_conversations_are_counted_in_bytes() -> None:
    """Never more than the bound, whatever comes; what is larger than all of it is not kept at all."""
    store = ResponseStore(ResponseStoreLimits(nbytes=4000), clock=Clock())
    for number in range(10):
        store.put(_kept(number, text="x" * 1000))
        assert store.nbytes <= 4000
    assert _ids(store) == [8, 9]
    store.put(_kept(11, text="x" * 5000))
    assert _ids(store) == [8, 9]


def test_entries_expire_when_nobody_uses_them() -> None:
    """An hour since the last use, not since the first."""
    clock = Clock()
    store = ResponseStore(ResponseStoreLimits(seconds=10), clock=clock)
    store.put(_kept(1))
    store.put(_kept(2))
    clock.now = 8
    store.get("resp_1", owner="")
    clock.now = 15
    with pytest.raises(NotFound):
        store.get("resp_2", owner="")
    assert _ids(store) == [1]
    clock.now = 26
    with pytest.raises(NotFound):
        store.get("resp_1", owner="")
    assert len(store) == 0 and store.nbytes == 0


def test_a_response_does_not_exist_for_another_owner() -> None:
    """Neither read nor removed: to others it is not there."""
    store = ResponseStore(ResponseStoreLimits(), clock=Clock())
    store.put(_kept(1, owner="ann"))
    for attempt in (store.get, store.remove):
        with pytest.raises(NotFound) as caught:
            attempt("resp_1", owner="bob")
        assert caught.value.code == "response_not_found"
    assert store.remove("resp_1", owner="ann").owner == "ann"


def test_what_was_deleted_does_not_come_back() -> None:
    """An answer that ends after it was deleted is not kept; one that is still known is."""
    store = ResponseStore(ResponseStoreLimits(), clock=Clock())
    store.put(_kept(1))
    store.replace(_kept(1, text="longer"))
    assert store.get("resp_1", owner="").inputs[0].text == "longer"
    store.remove("resp_1", owner="")
    store.replace(_kept(1))
    assert len(store) == 0 and store.nbytes == 0
