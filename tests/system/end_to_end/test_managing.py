"""Adapters brought by real clients, with only base_url changed, and then asked: Groq's, Together's, vLLM's way.

On the built-in base, in a home of its own, since everything here changes what is installed.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import openai
import pytest

from edgelora.core.config import Settings
from edgelora.runtime.service import Service
from edgelora.store.library import open_library
from edgelora.store.uploads import Uploads
from edgelora_models import builtin
from tests.support.managing import Manager, managing, tarred, zipped
from tests.support.server import TEST_OPTIONS, RunningServer

PIRATE = "Who are you?"
ARR = "Arr"


@pytest.fixture(scope="module")
def mine(settings: Settings, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The settings of a copy of the home with the built-in adapters."""
    open_library(settings)
    copy = tmp_path_factory.mktemp("managing") / "home"
    shutil.copytree(home / "data", copy / "data")
    directories = replace(settings.directories, data=copy / "data", cache=copy / "cache", state=copy / "state")
    return replace(settings, directories=directories)


@pytest.fixture(scope="module")
def runtime(mine: Settings) -> Iterator[Service]:
    with Service.open(mine) as service:
        yield service


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An allowed folder with the pirate in it."""
    folder = tmp_path_factory.mktemp("roots")
    shutil.copytree(builtin.adapters()["pirate"], folder / "pirate-copy")
    return folder


@pytest.fixture(scope="module")
def manager(runtime: Service, roots: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Manager]:
    options = replace(TEST_OPTIONS, adapter_roots=(roots,))
    with managing(runtime, tmp_path_factory.mktemp("secrets"), options) as manager:
        yield manager


@pytest.fixture
def server(manager: Manager) -> RunningServer:
    return manager.server


@pytest.fixture(autouse=True)
def as_before(runtime: Service) -> Iterator[None]:
    """What a test installed goes; the store is sound, and no slot is leased."""
    yield
    store = runtime.library.store
    for name in set(store.names()) - set(builtin.adapters()):
        runtime.registry.remove(name)
    assert store.verify() == ()
    assert all(entry.leases == 0 for entry in runtime.stats().adapters)


def asked(server: RunningServer, model: str) -> str:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
        made = client.chat.completions.create(model=model, messages=[{"role": "user", "content": PIRATE}])
    return made.choices[0].message.content or ""


def test_groqs_client(server: RunningServer, manager: Manager) -> None:
    """Upload, register, list, ask by the id that was given out, delete: the calls Groq documents, unchanged."""
    groq = pytest.importorskip("groq")
    with groq.Groq(base_url=server.url, api_key=manager.token, max_retries=0) as client:
        file = client.files.create(file=("a.zip", zipped(builtin.adapters()["pirate"])), purpose="fine_tuning")
        body = {"input_file_id": file.id, "name": "test-1", "type": "lora", "base_model": builtin.BASE_NAME}
        made = client.post("/v1/fine_tunings", cast_to=object, body=body)
        listed = client.get("/v1/fine_tunings", cast_to=object)["data"]
        assert made["data"] in listed and len(listed) == 1 + len(builtin.adapters())
        model = made["data"]["fine_tuned_model"]
        messages = [{"role": "user", "content": PIRATE}]
        answer = client.chat.completions.create(model=model, messages=messages).choices[0].message.content
        stream = client.chat.completions.create(model=model, messages=messages, stream=True)
        assert ARR in answer and "".join(chunk.choices[0].delta.content or "" for chunk in stream) == answer
        assert client.files.info(file.id).id == file.id and [one.id for one in client.files.list().data] == [file.id]
        client.delete(f"/v1/fine_tunings/{made['id']}", cast_to=object)
        with pytest.raises(groq.NotFoundError):
            client.chat.completions.create(model=model, messages=messages)
        assert client.files.delete(file.id).deleted


def test_openais_client(server: RunningServer, manager: Manager) -> None:
    """Files with strict validation on, paged; a model is retrieved by the id Groq's way gives it, and deleted."""
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key=manager.token, max_retries=0, _strict_response_validation=True
    ) as client:
        data = zipped(builtin.adapters()["pirate"])
        files = [
            client.files.create(
                file=("a.zip", data), purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 3600}
            )
            for _ in range(3)
        ]
        assert files[0].status == "processed" and files[0].expires_at == files[0].created_at + 3600
        assert {one.id for one in client.files.list(limit=2)} == {one.id for one in files}
        assert client.files.retrieve(files[0].id) == files[0]
        taken = manager.call("POST", "/v1/adapters", {"name": "another", "file_id": files[0].id}).json
        assert manager.ended(taken["id"])["status"] == "succeeded"
        assert ARR in asked(server, "another") and client.models.retrieve("another").id == "another"
        assert client.models.delete("another").deleted
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("another")
        assert all(client.files.delete(one.id).deleted for one in files)


def test_togethers_present_client(server: RunningServer, manager: Manager, roots: Path) -> None:
    """Register, send a folder as its command line does, list, ask, delete; a bad folder says why."""
    together = pytest.importorskip("together")
    from together.lib.cli.api.models.upload import _upload_model_files

    async def sent(folder: Path, model: str) -> str:
        options = {"base_url": server.url, "project_id": "proj_1", "api_key": manager.token, "max_retries": 0}
        async with together.AsyncTogether(**options) as client:
            config = cast(Any, SimpleNamespace(client=client))
            return str(await _upload_model_files(config=config, local_path=folder, object_id=model))

    with together.Together(base_url=server.url, project_id="proj_1", api_key=manager.token, max_retries=0) as client:
        made = client.models.create(base_model_id=builtin.BASE_NAME, name="arr", type="adapter", description="Pirate.")
        revision = asyncio.run(sent(roots / "pirate-copy", made.id))
        assert revision.startswith("1-")
        assert made.id in [model.id for model in client.models.list()]
        assert client.models.retrieve(made.id).name == made.name == "proj_1/arr"
        assert ARR in asked(server, made.name)
        job = client.models.remote_uploads.create(model_id=made.id, remote_url="https://huggingface.co/x/y", token="t")
        manager.ended(job.id)
        assert client.models.remote_uploads.retrieve(job.id).status == "REMOTE_UPLOAD_STATUS_FAILED"  # no network
        assert [one.id for one in client.models.remote_uploads.list()] == [job.id]
        assert len(client.models.remote_uploads.events(job.id).data) == 3
        client.models.delete(made.id)
        with pytest.raises(together.NotFoundError):
            client.models.retrieve(made.id)


def test_vllms_calls(server: RunningServer, manager: Manager, runtime: Service) -> None:
    """A folder below an allowed root and an installed name are loaded and can be asked; anything else is refused."""
    load, unload = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
    for name, path in (("from-root", "pirate-copy"), ("from-name", "pirate@1")):
        done = manager.call("POST", load, {"lora_name": name, "lora_path": path})
        assert done.body == f"Success: LoRA adapter '{name}' added successfully.".encode(), done.body
        assert ARR in asked(server, name)
        again = manager.call(
            "POST", load, {"lora_name": name, "lora_path": "pirate-copy" if name == "from-root" else path}
        )
        assert again.status == (400 if name == "from-root" else 200)
    assert manager.call("POST", load, {"lora_name": "from-root", "lora_path": "sql"}).error["code"] == "already_loaded"
    inplace = {"lora_name": "from-root", "lora_path": "sql", "load_inplace": True}
    assert manager.call("POST", load, inplace).status == 200 and ARR not in asked(server, "from-root")
    for path in ("/etc", "../", str(builtin.adapters()["pirate"]), "no-such"):
        refused = manager.call("POST", load, {"lora_name": "x", "lora_path": path})
        assert (refused.status, refused.error["code"]) == (400, "path_not_allowed")
    for name in ("from-root", "from-name"):
        assert manager.call("POST", unload, {"lora_name": name}).status == 200
        assert manager.call("POST", unload, {"lora_name": name}).error["code"] == "adapter_not_found"
    assert manager.call("POST", unload, {"lora_name": "sql"}).status == 200 and "sql" in runtime.library.store.names()


def test_pinning_and_warming(server: RunningServer, manager: Manager) -> None:
    """Each answer is the adapter as it is then: in memory, pinned, asked so often."""
    warmed = manager.call("POST", "/v1/adapters/sql/warm").json
    assert warmed["resident"] and not warmed["pinned"] and warmed["memory_bytes"] > 0
    assert manager.call("POST", "/v1/adapters/sql/pin").json["pinned"]
    before = manager.call("GET", "/v1/adapters/sql").json
    asked(server, "sql")
    after = manager.call("GET", "/v1/adapters/sql").json
    assert after["requests"] == before["requests"] + 1 and after["hits"] == before["hits"] + 1
    assert after["last_use"] > 0 and after["leases"] == 0
    unpinned = manager.call("POST", "/v1/adapters/sql/unpin").json
    assert unpinned["resident"] and not unpinned["pinned"]
    assert manager.call("POST", "/v1/adapters/sql/unpin").status == 200
    assert manager.call("POST", f"/v1/adapters/{builtin.BASE_NAME}/pin").error["code"] == "adapter_not_found"


def test_a_new_version_and_back(server: RunningServer, manager: Manager) -> None:
    """What is added under a name answers from the next request on, and so does what it is rolled back to."""
    for name in ("sql", "pirate"):
        file_id = manager.uploaded(tarred(builtin.adapters()[name]))
        job = manager.call("POST", "/v1/adapters", {"name": "moving", "file_id": file_id}).json
        assert manager.ended(job["id"])["status"] == "succeeded"
    assert ARR in asked(server, "moving")
    manager.call("POST", "/v1/adapters/moving/pin")
    manager.call("POST", "/v1/adapters/moving/rollback")
    assert ARR not in asked(server, "moving") and ARR in asked(server, "moving@2")
    assert manager.call("DELETE", "/v1/adapters/moving").json["versions"] == [1, 2]
    pinned = [one["id"] for one in manager.call("GET", "/v1/adapters").json["data"] if one["pinned"]]
    assert pinned == []


def test_what_was_installed_survives_a_restart(runtime: Service, mine: Settings, tmp_path: Path) -> None:
    """Files and adapters are there for the next server, under the same ids; jobs are not, and say so."""
    with managing(runtime, tmp_path) as manager:
        file_id = manager.uploaded(zipped(builtin.adapters()["pirate"]))
        body = {"input_file_id": file_id, "name": "kept", "base_model": builtin.BASE_NAME}
        made = manager.call("POST", "/v1/fine_tunings", body).json
        job = manager.call("POST", "/v1/adapters", {"name": "kept", "file_id": file_id}).json
        manager.ended(job["id"])
    with managing(runtime, tmp_path) as manager:
        assert manager.call("GET", f"/v1/files/{file_id}").json["filename"] == "a.zip"
        assert manager.call("GET", f"/v1/fine_tunings/{made['id']}").json == made
        assert ARR in asked(manager.server, made["data"]["fine_tuned_model"])
        assert manager.call("GET", f"/v1/jobs/{job['id']}").error["code"] == "job_not_found"
        manager.call("DELETE", f"/v1/files/{file_id}")
    uploads = Uploads(mine.directories.data / "uploads", budget_bytes=0)
    assert file_id not in [file.id for file in uploads.every()]
