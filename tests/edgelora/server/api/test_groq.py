"""/v1/fine_tunings: an uploaded adapter registered Groq's way, and why one is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.adapters import TINY, write_peft
from tests.support.managing import Manager, tiny_zip, zipped
from tests.support.service import FakeService


@pytest.fixture(scope="module")
def adapters() -> Mapping[str, str | None]:
    return {}


def register(manager: Manager, file_id: str, **fields: object) -> dict[str, object]:
    return {"input_file_id": file_id, "name": "test-1", "type": "lora", "base_model": "tiny"} | fields


@pytest.mark.parametrize("prefix", ["/v1", "/openai/v1"])
def test_create_list_get_delete(manager: Manager, service: FakeService, folder: Path, prefix: str) -> None:
    """The ids stay the same from one call to the next, and the model's ends in the version's digest."""
    file_id = manager.uploaded(tiny_zip(folder / "one"))
    made = manager.call("POST", f"{prefix}/fine_tunings", register(manager, file_id)).json
    digest = service.registry.library.store.get("test-1").latest.digest
    assert made["object"] == "fine_tuning" and made["id"] == made["data"]["id"]
    assert made["data"] == {
        "id": made["id"], "name": "test-1", "base_model": "tiny", "type": "lora", "input_file_id": file_id,
        "created_at": made["data"]["created_at"], "fine_tuned_model": f"ft:tiny:org_local/test-1-{digest[:12]}",
        "warnings": [],
    }  # fmt: skip
    assert manager.call("GET", f"{prefix}/fine_tunings").json == {"object": "list", "data": [made["data"]]}
    assert manager.call("GET", f"{prefix}/fine_tunings/{made['id']}").json == made
    again = manager.call("POST", f"{prefix}/fine_tunings", register(manager, file_id)).json
    assert again["id"] == made["id"]  # the same content is the same version
    gone = manager.call("DELETE", f"{prefix}/fine_tunings/{made['id']}").json
    assert gone == {"id": made["id"], "object": "fine_tuning", "deleted": True}
    assert service.registry.library.store.names() == ()
    for method in ("GET", "DELETE"):
        assert manager.call(method, f"{prefix}/fine_tunings/{made['id']}").error["code"] == "fine_tuning_not_found"


@pytest.mark.parametrize(("fields", "status", "param", "code"), [
    ({"base_model": "qwen"}, 400, "base_model", "other_base"),
    ({"type": "full"}, 400, "type", "invalid_value"),
    ({"name": "My Adapter"}, 400, "name", "bad_name"),
    ({"name": "../x"}, 400, "name", "bad_name"),
    ({"name": None}, 400, "name", "invalid_type"),
    ({"input_file_id": "file-" + "0" * 24}, 404, "input_file_id", "file_not_found"),
    ({"input_file_id": "/etc/passwd"}, 404, "input_file_id", "file_not_found"),
])  # fmt: skip
def test_a_wrong_field_is_refused_by_name(
    manager: Manager, folder: Path, fields: dict[str, object], status: int, param: str, code: str
) -> None:
    """Before anything is converted."""
    file_id = manager.uploaded(tiny_zip(folder / "wrong"))
    reply = manager.call("POST", "/v1/fine_tunings", register(manager, file_id, **fields))
    assert (reply.status, reply.error["param"], reply.error["code"]) == (status, param, code)


def test_the_warnings_are_in_the_reply(manager: Manager, folder: Path) -> None:
    """An adapter without an effect, and one of another architecture, which has no --force here."""
    silent = write_peft(folder / "silent", TINY, alpha=0)
    made = manager.call("POST", "/v1/fine_tunings", register(manager, manager.uploaded(zipped(silent)))).json
    assert [warning["code"] for warning in made["data"]["warnings"]] == ["no_effect"]
    shown = manager.call("GET", "/v1/adapters/test-1").json
    assert shown["warnings"] == made["data"]["warnings"]
    manager.call("DELETE", f"/v1/fine_tunings/{made['id']}")
    foreign = write_peft(folder / "foreign", TINY, base_model_name_or_path="mistralai/Mistral-7B-v0.1")
    reply = manager.call("POST", "/v1/fine_tunings", register(manager, manager.uploaded(zipped(foreign))))
    assert (reply.status, reply.error["code"]) == (400, "other_architecture")


def broken(folder: Path, kind: str) -> bytes:
    write_peft(folder, TINY)
    config = json.loads((folder / "adapter_config.json").read_text())
    weights = folder / "adapter_model.safetensors"
    if kind == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif kind == "unsupported":
        (folder / "adapter_config.json").write_text(json.dumps(config | {"use_xlora": True}))
    elif kind == "half":
        return zipped(folder, ("adapter_config.json",))
    elif kind == "pickle":
        return zipped(folder, ("adapter_config.json",), {"adapter_model.bin": b"x"})
    elif kind == "zip damaged":
        data = bytearray(zipped(folder))
        data[len(data) // 2] ^= 0xFF
        return bytes(data)
    return zipped(folder)


@pytest.mark.parametrize(("kind", "says"), [
    ("truncated", "adapter_model.safetensors"),
    ("unsupported", "use_xlora"),
    ("half", "adapter_model.safetensors"),
    ("pickle", "pickle"),
    ("zip damaged", "archive"),
])  # fmt: skip
def test_a_bad_upload_says_why(manager: Manager, service: FakeService, tmp_path: Path, kind: str, says: str) -> None:
    """The converter's own text is the answer, no path of this machine is in it, and nothing is installed."""
    file_id = manager.uploaded(broken(tmp_path / "bad", kind))
    reply = manager.call("POST", "/v1/fine_tunings", register(manager, file_id))
    assert reply.status == 400 and says in reply.error["message"], reply.error
    assert str(service.registry.library.settings.directories.data) not in reply.error["message"]
    assert service.registry.library.store.names() == () and service.registry.library.store.verify() == ()


def test_groqs_own_contract_and_more(manager: Manager, service: FakeService, folder: Path) -> None:
    """Two files with 16-bit factors of rank 8 are what Groq takes; more files and other ranks do no harm."""
    strict = zipped(write_peft(folder / "strict", TINY, rank=8, dtype="F16"))
    loose = zipped(write_peft(folder / "loose", TINY, rank=3, dtype="BF16"), more={"README.md": b"hello"})
    for data in (strict, loose):
        made = manager.call("POST", "/v1/fine_tunings", register(manager, manager.uploaded(data)))
        assert made.status == 200, made.body
    assert [version.rank for version in service.registry.library.store.get("test-1").versions] == [8, 3]
    assert len(manager.call("GET", "/v1/fine_tunings").json["data"]) == 2
    service.registry.remove("test-1")
