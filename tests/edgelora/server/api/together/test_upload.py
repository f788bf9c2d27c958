"""Together's flows over raw HTTP: 1.x and 2.x's upload job, 3.x's models, imports, and files sent in pieces."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from edgelora.server.api.together.parts import combined
from edgelora.server.api.together.projects import model_id
from tests.support.adapters import TINY, write_peft
from tests.support.managing import FILES, Manager, tiny_zip
from tests.support.service import FakeService

MODELS = "/v2/projects/proj_1/models"
pytestmark = pytest.mark.usefixtures("emptied")


@pytest.fixture(scope="module")
def adapters() -> Mapping[str, str | None]:
    return {}


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def test_the_older_clients_upload(manager: Manager, service: FakeService, tmp_path: Path) -> None:
    """A job in Together's words; a project before the name is let go."""
    body = {"model_name": "me/sql", "model_source": manager.uploaded(tiny_zip(tmp_path / "a")), "model_type": "adapter",
            "base_model": "tiny", "description": "Answers in SQL."}  # fmt: skip
    made = manager.call("POST", "/v1/models", body).json
    assert made["data"].keys() == {"job_id", "model_name", "model_id", "model_source"} and made["message"]
    job = manager.ended(made["data"]["job_id"])
    assert (job["status"], job["type"]) == ("Complete", "adapter_upload")
    assert [update["status"] for update in job["status_updates"]] == ["Queued", "Running", "Complete"]
    assert job["args"] == {
        "modelName": "sql", "modelSource": body["model_source"], "description": "Answers in SQL."
    }  # fmt: skip
    assert service.registry.get("me/sql").manifest.name == "sql"


@pytest.mark.parametrize(("fields", "param", "code"), [
    ({"model_source": "https://bucket.s3.amazonaws.com/a.zip"}, "model_source", "source_not_allowed"),
    ({"model_source": "http://127.0.0.1:9/a"}, "model_source", "source_not_allowed"),
    ({"model_type": "model"}, "model_type", "invalid_value"),
    ({"base_model": "meta-llama/Llama-3.2-1B"}, "base_model", "other_base"),
    ({"model_name": "a/b/c"}, "name", "bad_name"),
])  # fmt: skip
def test_the_older_clients_upload_refuses(manager: Manager, fields: dict[str, str], param: str, code: str) -> None:
    """No address but a repository's on the hub; no base but the one that runs."""
    reply = manager.call("POST", "/v1/models", {"model_name": "a", "model_source": "org/repo", **fields})
    assert (reply.status, reply.error["param"], reply.error["code"]) == (400, param, code)


def created(manager: Manager, name: str = "sql") -> dict[str, Any]:
    body = {"baseModelId": "tiny", "name": name, "type": "adapter"}
    reply = manager.call("POST", MODELS, body)
    assert reply.status == 200, reply.body
    made: dict[str, Any] = reply.json
    return made


def test_a_model_is_registered_listed_and_deleted(manager: Manager) -> None:
    """Without files too; its id is its name's, and the name has the project before it."""
    made = created(manager)
    assert (made["id"], made["name"], made["projectId"]) == (model_id("sql"), "proj_1/sql", "proj_1")
    assert made["weights"] == {"type": "WEIGHTS_TYPE_ADAPTER"} and made["baseModelId"] == "tiny"
    assert manager.call("GET", MODELS).json["data"] == [made]
    assert manager.call("GET", f"{MODELS}/{made['id']}").json == made
    assert manager.call("DELETE", f"{MODELS}/{made['id']}").json == {}
    assert manager.call("GET", MODELS).json["data"] == []
    assert manager.call("DELETE", f"{MODELS}/{made['id']}").error["code"] == "model_not_found"


def test_an_import_is_a_job_in_its_own_words(manager: Manager) -> None:
    """Only repositories of the hub; the token is told nowhere; events say how it went."""
    made = created(manager)
    for address in ("https://bucket.example/a.zip?signature=x", "http://169.254.169.254/latest", "file:///etc"):
        reply = manager.call("POST", f"{MODELS}/uploads", {"modelId": made["id"], "remoteUrl": address})
        assert (reply.error["param"], reply.error["code"]) == ("remoteUrl", "source_not_allowed")
    body = {"modelId": made["id"], "remoteUrl": "https://huggingface.co/org/repo", "token": "hf_secret"}
    job = manager.call("POST", f"{MODELS}/uploads", body).json
    assert job["modelId"] == made["id"] and job["status"].startswith("REMOTE_UPLOAD_STATUS_")
    manager.ended(job["id"])
    ended = manager.call("GET", f"{MODELS}/uploads/{job['id']}").json
    assert ended["status"] == "REMOTE_UPLOAD_STATUS_FAILED" and "network" in ended["statusMessage"]
    assert manager.call("GET", f"{MODELS}/uploads").json["data"][-1] == ended
    events = manager.call("GET", f"{MODELS}/uploads/{job['id']}/events").json["data"]
    assert [event["level"] for event in events] == ["LEVEL_INFO", "LEVEL_INFO", "LEVEL_ERROR"]
    assert "hf_secret" not in str([ended, events])
    manager.call("DELETE", f"{MODELS}/{made['id']}")


class Sending:
    """An adapter's folder on its way in pieces of `size` bytes."""

    def __init__(self, manager: Manager, folder: Path, model: str, *, size: int = 5000) -> None:
        self.manager, self.model = manager, model
        self.data = {name: (folder / name).read_bytes() for name in FILES}
        self.pieces = {
            name: [data[at : at + size] for at in range(0, len(data), size)] for name, data in self.data.items()
        }
        self.files = [
            {"path": name, "hash": combined([md5(piece) for piece in pieces]), "numParts": len(pieces)}
            for name, pieces in self.pieces.items()
        ]

    def create(self) -> list[dict[str, Any]]:
        extra = [{"path": "README.md", "hash": md5(b"x"), "numParts": 1}]
        body = {"objectId": self.model, "files": [*self.files, *extra]}
        reply = self.manager.call("POST", f"{MODELS}/upload/create", body)
        assert reply.status == 200, reply.body
        files: list[dict[str, Any]] = reply.json["files"]
        return files

    def put(self, url: str, data: bytes) -> Any:
        """Send a part as a plain HTTP client does, without key and content type."""
        parts = urlsplit(url)
        return self.manager.server.request("PUT", f"{parts.path}?{parts.query}", data)

    def complete(self, upload: str) -> Any:
        files = [{**file, "uploadDetails": {"uploadId": upload}} for file in self.files]
        return self.manager.call("POST", f"{MODELS}/upload/complete", {"objectId": self.model, "files": files})


def test_files_are_sent_in_pieces(manager: Manager, service: FakeService, tmp_path: Path) -> None:
    """Each to its own address, in any order, twice if need be; what is no part of an adapter is not asked for."""
    made = created(manager)
    sending = Sending(manager, write_peft(tmp_path / "a", TINY), made["id"])
    offered = sending.create()
    assert offered[2] == {"path": "README.md", "skipUpload": True}
    for file in reversed(offered[:2]):
        pieces = sending.pieces[file["path"]]
        assert len(file["parts"]) == len(pieces)
        for part in reversed(file["parts"]):
            for _ in range(2 if part["partNumber"] == 1 else 1):
                reply = sending.put(part["url"], pieces[part["partNumber"] - 1])
                assert (reply.status, reply.headers["etag"]) == (200, f'"{md5(pieces[part["partNumber"] - 1])}"')
    done = sending.complete(offered[0]["uploadId"])
    assert done.status == 200 and done.json["revisionId"].startswith("1-")
    assert done.json["warnings"] == []
    assert service.registry.get("proj_1/sql").version.origin == "upload"
    uploads = service.registry.library.settings.directories.data / "uploads"
    assert not list((uploads / "tmp").iterdir())
    assert manager.call("DELETE", f"{MODELS}/{made['id']}").status == 200
    assert service.registry.library.store.names() == ()


def test_an_upload_that_is_not_whole_is_refused(manager: Manager, tmp_path: Path) -> None:
    """A missing part can still be sent; wrong bytes are told, and so is a bad adapter; nothing is installed."""
    made = created(manager)
    sending = Sending(manager, write_peft(tmp_path / "a", TINY), made["id"], size=1 << 20)
    config, weights, _ = sending.create()
    sending.put(config["parts"][0]["url"], sending.data[FILES[0]])
    assert sending.complete(config["uploadId"]).error["code"] == "upload_incomplete"
    sending.put(weights["parts"][0]["url"], b"other bytes")
    assert sending.complete(config["uploadId"]).error["code"] == "upload_mismatch"
    sending.data[FILES[1]] = b"other bytes"
    sending.files[1]["hash"] = md5(b"other bytes")
    config, weights, _ = sending.create()
    for file, name in ((config, FILES[0]), (weights, FILES[1])):
        sending.put(file["parts"][0]["url"], sending.data[name])
    bad = sending.complete(config["uploadId"])
    assert bad.status == 400 and "safetensors" in bad.error["message"]
    assert manager.call("GET", "/v1/adapters").json["data"] == []


def test_an_address_that_was_not_given_out_takes_nothing(manager: Manager, tmp_path: Path) -> None:
    """Another signature, another part, another upload, a piece too large: each is refused."""
    made = created(manager)
    sending = Sending(manager, write_peft(tmp_path / "a", TINY), made["id"])
    url = sending.create()[0]["parts"][0]["url"]
    path, _, signature = url.partition("?")
    assert sending.put(f"{path}?signature=x", b"x").error["code"] == "bad_signature"
    assert sending.put(path, b"x").status == 403
    assert sending.put(f"{path[:-1]}9?{signature}", b"x").error["code"] == "unknown_part"
    upload = urlsplit(url).path.split("/")[3]
    assert sending.put(url.replace(upload, "0" * 24), b"x").error["code"] == "upload_not_found"
    assert manager.server.request("POST", urlsplit(url).path, b"x").status in (404, 405, 415)


@pytest.mark.parametrize("project", ["a%20b", "..", "x" * 200])
def test_a_project_is_a_name(manager: Manager, project: str) -> None:
    """It stands in answers, so it holds nothing odd."""
    assert manager.call("GET", f"/v2/projects/{project}/models").status in (400, 404)
