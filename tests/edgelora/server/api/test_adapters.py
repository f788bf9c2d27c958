"""/v1/adapters and /v1/jobs: what is installed looked at and changed; jobs polled to their end."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.adapters import TINY, write_peft
from tests.support.cli import SHAPE, make_library
from tests.support.hub import Repo, running_hub
from tests.support.managing import FILES, Manager, tiny_zip, zipped
from tests.support.service import FakeService

pytestmark = pytest.mark.usefixtures("emptied")


@pytest.fixture(scope="module")
def adapters() -> Mapping[str, str | None]:
    return {}


def install(service: FakeService, folder: Path, *, name: str = "sql", versions: int = 1) -> list[str]:
    """Digests of the versions."""
    store, base = service.registry.library.store, service.registry.base
    return [
        store.add(write_peft(folder / str(seed), TINY, seed=seed), name=name, base=base)[1].digest
        for seed in range(versions)
    ]


def test_adding_a_file_is_a_job(manager: Manager, tmp_path: Path) -> None:
    """202 and where to ask; the job ends with the version it installed, which then is in the list."""
    file_id = manager.uploaded(tiny_zip(tmp_path / "a"))
    taken = manager.call("POST", "/v1/adapters", {"name": "sql", "file_id": file_id})
    assert taken.status == 202 and taken.json["status"] in ("queued", "running")
    assert taken.headers["location"] == f"/v1/jobs/{taken.json['id']}"
    job = manager.ended(taken.json["id"])
    assert (job["status"], job["error"], job["adapter"]["version"]) == ("succeeded", None, 1)
    assert [update["status"] for update in job["status_updates"]] == ["queued", "running", "succeeded"]
    adapters = manager.call("GET", "/v1/adapters").json["data"]
    assert [(adapter["id"], adapter["digest"]) for adapter in adapters] == [("sql", job["adapter"]["digest"])]
    assert adapters[0] == manager.call("GET", "/v1/adapters/sql").json
    assert (adapters[0]["resident"], adapters[0]["leases"], adapters[0]["requests"]) == (False, 0, 0)
    assert adapters[0]["last_use"] is None and adapters[0]["quarantined"] is None
    assert adapters[0]["origin"] == f"upload:{file_id}"


def test_a_job_that_fails_says_why(manager: Manager, tmp_path: Path) -> None:
    """The failed job has an error object with the converter's code, and text in its last update."""
    write_peft(tmp_path / "a", TINY)
    file_id = manager.uploaded(zipped(tmp_path / "a", ("adapter_config.json",)))
    taken = manager.call("POST", "/v1/adapters", {"name": "sql", "file_id": file_id}).json
    job = manager.ended(taken["id"])
    assert (job["status"], job["adapter"]) == ("failed", None)
    assert job["error"]["code"] == "adapter_missing" and "adapter_model.safetensors" in job["error"]["message"]
    assert job["status_updates"][-1]["message"] == job["error"]["message"]


@pytest.mark.parametrize(("body", "param", "code"), [
    ({"name": "a"}, "source", "missing_required_parameter"),
    ({"name": "a", "file_id": "file-1", "source": "org/repo"}, "source", "invalid_value"),
    ({"source": "org/repo"}, "name", "missing_required_parameter"),
    ({"name": "A", "source": "org/repo"}, "name", "bad_name"),
    ({"name": "a", "source": "https://evil.example/a.zip"}, "source", "source_not_allowed"),
    ({"name": "a", "source": "file:///etc/passwd"}, "source", "source_not_allowed"),
    ({"name": "a", "source": "/etc"}, "source", "source_not_allowed"),
    ({"name": "a", "source": "org/repo", "token": "hf_\nX"}, "token", "invalid_value"),
    ({"name": "a", "file_id": "../x"}, "file_id", "file_not_found"),
])  # fmt: skip
def test_what_cannot_be_added_is_refused(manager: Manager, body: object, param: str, code: str) -> None:
    """By the field's name; no address and no path is ever opened."""
    reply = manager.call("POST", "/v1/adapters", body)
    assert (reply.error["param"], reply.error["code"]) == (param, code)


def test_a_repository_without_a_network_is_a_failed_job(manager: Manager) -> None:
    """The hub's error is the job's, and the token is nowhere in it."""
    taken = manager.call("POST", "/v1/adapters", {"name": "a", "source": "hf:org/repo", "token": "hf_secret"})
    assert b"hf_secret" not in taken.body
    job = manager.ended(taken.json["id"])
    assert job["error"]["code"] == "offline" and "hf_secret" not in str(job)


def test_rolling_back_and_pointing(manager: Manager, service: FakeService, tmp_path: Path) -> None:
    """The bare name means an older version again, an alias any; both are there for everybody at once."""
    digests = install(service, tmp_path, versions=3)
    assert manager.call("POST", "/v1/adapters/sql/rollback", {}).json["digest"] == digests[1]
    assert manager.call("POST", "/v1/adapters/sql/rollback").json["digest"] == digests[0]
    assert manager.call("POST", "/v1/adapters/sql/rollback").error["code"] == "no_older_version"
    assert manager.call("POST", "/v1/adapters/sql/rollback", {"version": 3}).json["version"] == 3
    pointed = manager.call("PUT", "/v1/adapters/sql/aliases/stable", {"version": digests[1][:8]}).json
    assert pointed["aliases"] == {"latest": 3, "stable": 2}
    assert service.registry.get("sql@stable").version.digest == digests[1]
    assert manager.call("GET", "/v1/adapters/sql@stable").json["version"] == 2
    assert manager.call("DELETE", "/v1/adapters/sql/aliases/stable").json["aliases"] == {"latest": 3}
    bare = {"Authorization": f"Bearer {manager.token}"}
    assert manager.server.request("POST", "/v1/adapters/sql/rollback", b"", bare).json["version"] == 2
    assert manager.server.request("POST", "/v1/adapters/sql/rollback", b"{}", bare).status == 415
    assert manager.server.request("POST", "/v1/adapters/sql/rollback").status == 401
    for method, path, code in (("DELETE", "stable", "alias_not_found"), ("DELETE", "latest", "bad_alias"),
                               ("PUT", "12", "bad_alias"), ("PUT", "abcdef", "bad_alias")):  # fmt: skip
        body = {"version": 1} if method == "PUT" else None
        assert manager.call(method, f"/v1/adapters/sql/aliases/{path}", body).error["code"] == code


def test_deleting_a_version_and_all(manager: Manager, service: FakeService, tmp_path: Path) -> None:
    """name@version deletes a version, the bare name all of them; then they are a 404."""
    install(service, tmp_path, versions=3)
    assert manager.call("DELETE", "/v1/adapters/sql@2").json["versions"] == [2]
    assert manager.call("DELETE", "/v1/models/tiny:sql@3").json == {
        "id": "tiny:sql@3", "object": "model", "deleted": True
    }  # fmt: skip
    assert [version["version"] for version in manager.call("GET", "/v1/adapters/sql").json["versions"]] == [1]
    assert manager.call("DELETE", "/v1/adapters/sql").json["versions"] == [1]
    for method, path in (("GET", "/v1/adapters/sql"), ("DELETE", "/v1/adapters/sql"), ("DELETE", "/v1/models/sql"),
                         ("POST", "/v1/adapters/sql/unpin"), ("DELETE", "/v1/models/tiny")):  # fmt: skip
        reply = manager.call(method, path)
        assert (reply.status, reply.error["code"]) == (404, "adapter_not_found")


def test_a_repository_is_pulled_with_its_token(
    manager: Manager,
    service: FakeService,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The server's own hub is asked, whatever URL names the repository; the token is sent there only."""
    caplog.set_level(logging.DEBUG)
    folder = write_peft(tmp_path / "peft", SHAPE)
    with running_hub() as hub:
        # What HF_ENDPOINT sets, which is read when huggingface_hub is imported.
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        files = {name: (folder / name).read_bytes() for name in FILES}
        hub.repos["org/sql-lora"] = Repo(files, private=True, large=frozenset(FILES[1:]))
        hub.repos["org/base"] = Repo({"config.json": b"{}", "model.gguf": b"GGUF"})
        with other_shelf(service, tmp_path / "home"):
            for source, token, status in (("https://huggingface.co/org/sql-lora", "good", "succeeded"),
                                          ("hf:org/sql-lora", "wrong", "failed"),
                                          ("org/base", None, "failed")):  # fmt: skip
                body = {"name": "sql", "source": source, "token": token}
                job = manager.ended(manager.call("POST", "/v1/adapters", body).json["id"])
                assert job["status"] == status, job
            assert manager.call("GET", "/v1/adapters/sql").json["origin"] == "hub:org/sql-lora@" + "c0" * 20
            assert service.registry.library.bases.names() == ("tiny",)  # no client brings a base here
    assert job["error"]["code"] == "not_an_adapter"
    assert "good" not in caplog.text and "wrong" not in caplog.text


@contextmanager
def other_shelf(service: FakeService, home: Path) -> Iterator[None]:
    """Over a store whose base is installed, as pulling asks for."""
    registry, library = service.registry, make_library(home)
    before = registry.library, registry.base
    registry.library, registry.base = library, library.bases.get("tiny")
    try:
        yield
    finally:
        registry.library, registry.base = before


def test_an_unknown_job_is_not_found(manager: Manager) -> None:
    """With where to look instead: a restart forgets jobs."""
    reply = manager.call("GET", "/v1/jobs/job-0")
    assert (reply.status, reply.error["code"]) == (404, "job_not_found")
