"""/v1/files over real sockets: what is taken, what is refused and why; a refused or cut upload leaves nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from edgelora.server.api.openai.files import select
from edgelora.server.http.options import ServerOptions
from edgelora.store.uploads import UploadedFile
from tests.support.managing import BOUNDARY, WAIT_SECONDS, Manager, form, managing, tarred, tiny_zip
from tests.support.server import TEST_OPTIONS, head_bytes, parse_reply, read_all
from tests.support.service import FakeService

OPTIONS = replace(TEST_OPTIONS, upload_bytes=1 << 20)
KIND = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


@pytest.fixture(scope="module")
def adapters() -> Mapping[str, str | None]:
    return {}


@pytest.fixture(scope="module")
def options() -> ServerOptions:
    return replace(TEST_OPTIONS, upload_bytes=1 << 20)


@pytest.fixture(scope="module")
def archive(folder: Path) -> bytes:
    return tiny_zip(folder / "adapter")


@pytest.fixture(autouse=True)
def clean(manager: Manager, folder: Path) -> Iterator[None]:
    """After each test: every file there is belongs to a record, and is deleted."""
    yield
    for file in manager.call("GET", "/v1/files").json["data"]:
        assert manager.call("DELETE", f"/v1/files/{file['id']}").json["deleted"]
    deadline = time.monotonic() + WAIT_SECONDS  # the server hears of a cut connection a moment later
    while left := [path for path in (folder / "home").rglob("*") if path.is_file() and path.suffix != ".lock"]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


@pytest.mark.parametrize("prefix", ["/v1", "/openai/v1"])
def test_a_file_is_sent_listed_retrieved_and_deleted(manager: Manager, archive: bytes, prefix: str) -> None:
    """The FileObject says what was sent; after its deletion nobody knows it."""
    made = manager.upload(archive, prefix=prefix).json
    assert made.keys() == {
        "id", "object", "bytes", "created_at", "expires_at", "filename", "purpose", "status"
    }  # fmt: skip
    assert (made["object"], made["bytes"], made["filename"]) == ("file", len(archive), "a.zip")
    assert (made["purpose"], made["status"]) == ("fine_tuning", "processed")
    assert manager.call("GET", f"{prefix}/files/{made['id']}").json == made
    assert manager.call("GET", f"{prefix}/files").json["data"] == [made]
    gone = manager.call("DELETE", f"{prefix}/files/{made['id']}")
    assert gone.json == {"id": made["id"], "object": "file", "deleted": True}
    missing = manager.call("GET", f"{prefix}/files/{made['id']}")
    assert (missing.status, missing.error["code"]) == (404, "file_not_found")


def test_both_names_of_the_purpose_and_both_archives(manager: Manager, folder: Path, archive: bytes) -> None:
    """Groq's and OpenAI's, zip and tar.gz; the list can be asked for either purpose."""
    manager.upload(archive)
    manager.upload(tarred(folder / "adapter"), purpose="fine-tune", filename="a.tar.gz")
    listed = manager.call("GET", "/v1/files?purpose=fine-tune").json["data"]
    assert [file["filename"] for file in listed] == ["a.tar.gz"]


@pytest.mark.parametrize(("fields", "param", "code"), [
    ({"purpose": "batch"}, "purpose", "invalid_value"),
    ({"expires_after[anchor]": "now", "expires_after[seconds]": "3600"}, "expires_after[anchor]", "invalid_value"),
    ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "9"}, "expires_after[seconds]", "invalid_value"),
    ({"filename": "adapter_model.bin"}, "file", "adapter_is_pickle"),
])  # fmt: skip
def test_a_form_with_wrong_fields_is_refused(
    manager: Manager, archive: bytes, fields: dict[str, str], param: str, code: str
) -> None:
    """By the field's name."""
    reply = manager.upload(archive, **fields)
    assert (reply.status, reply.error["param"], reply.error["code"]) == (400, param, code)


def test_the_client_may_say_how_long_a_file_is_kept(manager: Manager, archive: bytes) -> None:
    """The lifetime is one hour to 30 days; the default is 30 days."""
    hour = manager.upload(archive, **{"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}).json
    month = manager.upload(archive).json
    assert hour["expires_at"] - hour["created_at"] == 3600
    assert month["expires_at"] - month["created_at"] == 30 * 24 * 3600


def test_what_is_no_archive_is_refused_at_once(manager: Manager) -> None:
    """With what to send instead, and without a path of this machine."""
    reply = manager.upload(b'{"messages": []}\n', filename="train.jsonl")
    assert (reply.status, reply.error["code"]) == (400, "adapter_container")
    assert "train.jsonl" in reply.error["message"] and "/uploads/" not in reply.error["message"]


@pytest.mark.parametrize("body", [form(b"PK\x03\x04")[:-9], b"", b"{}"])
def test_a_body_that_is_no_form_is_refused(manager: Manager, body: bytes) -> None:
    """Also where it ends before its last boundary."""
    reply = manager.call("POST", "/v1/files", body, KIND)
    assert (reply.status, reply.error["code"]) == (400, "bad_form")


def test_another_content_type_is_refused(manager: Manager, archive: bytes) -> None:
    """The form is the one way in; JSON is for the other routes, and a form for none of them."""
    reply = manager.call("POST", "/v1/files", form(archive))
    assert reply.status in (400, 415)
    assert manager.call("POST", "/v1/fine_tunings", form(archive), KIND).status == 415


def test_an_upload_over_the_cap_is_refused(manager: Manager) -> None:
    """Told by its length, or, sent in chunks, as soon as it is over it."""
    data = b"PK\x03\x04" + bytes((1 << 20) + (1 << 17))
    assert manager.upload(data).error["code"] == "body_too_large"
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(piece), piece) for start in range(0, len(data), 65536)
        if (piece := form(data)[start : start + 65536])
    )  # fmt: skip
    fields = {"Host": "localhost", "Authorization": f"Bearer {manager.token}", "Transfer-Encoding": "chunked", **KIND}
    reply = parse_reply(
        manager.server.send(
            head_bytes("GET", "/", fields, 0).replace(b"GET / ", b"POST /v1/files ") + chunks + b"0\r\n\r\n"
        )
    )
    assert (reply.status, reply.error["code"]) == (413, "body_too_large")


def test_a_cut_upload_leaves_nothing(manager: Manager, archive: bytes) -> None:
    """Half a body and a closed connection, many times: the files' folder stays empty, and the server goes on."""
    body = form(archive)
    fields = {"Host": "localhost", "Authorization": f"Bearer {manager.token}", **KIND}
    for share in range(1, 9):
        with manager.server.connect() as connection:
            connection.sendall(head_bytes("POST", "/v1/files", fields, len(body)) + body[: len(body) * share // 10])
    assert manager.call("GET", "/v1/files").json["data"] == []
    assert manager.upload(archive).status == 200


def test_a_full_budget_is_reported(tmp_path: Path, archive: bytes) -> None:
    """507 with what to do, and not tried again by itself; deleting makes room."""
    service = FakeService(tmp_path, adapters={})
    settings = replace(service.registry.library.settings, upload_disk_bytes=len(archive) + 10)
    service.registry.library = replace(service.registry.library, settings=settings)
    with service, managing(service, tmp_path / "secrets", OPTIONS) as manager:
        first = manager.uploaded(archive)
        reply = manager.upload(archive)
        assert (reply.status, reply.error["code"], reply.headers["x-should-retry"]) == (507, "upload_budget", "false")
        manager.call("DELETE", f"/v1/files/{first}")
        assert manager.upload(archive).status == 200


def test_a_client_that_sends_no_end_still_reads_why(manager: Manager) -> None:
    """An answer comes before the whole body has: the connection is read on for a moment and closed."""
    body = form(b"PK\x03\x04" + bytes(300_000), **{f"f{n}": "x" for n in range(20)})
    with manager.server.connect() as connection:
        fields = {"Host": "localhost", "Authorization": f"Bearer {manager.token}", **KIND}
        connection.sendall(head_bytes("POST", "/v1/files", fields, len(body)) + body)
        assert parse_reply(read_all(connection)).error["code"] == "bad_form"


def make(number: int, purpose: str = "fine_tuning") -> UploadedFile:
    return UploadedFile(f"file-{number}", "a", purpose, 1, "0" * 64, float(number), 1e10)


def test_pages() -> None:
    """Newest first unless asked otherwise; `after` and `limit` walk through without losing one."""
    files = [make(number) for number in range(5)]
    ids = [file.id for file in reversed(files)]
    walked, after = [], None
    while True:
        page, more = select(files, purpose=None, order="desc", after=after, limit="2")
        walked += [file.id for file in page]
        if not more:
            break
        after = page[-1].id
    assert walked == ids
    assert select(files, purpose="x", order="asc", after=None, limit=None) == ([], False)


@pytest.mark.parametrize("wrong", [{"order": "up"}, {"limit": "0"}, {"limit": "x"}, {"limit": "١"}, {"after": "no"}])
def test_wrong_pages_are_refused(manager: Manager, wrong: dict[str, str]) -> None:
    """By the parameter's name."""
    ((name, value),) = wrong.items()
    value = "%D9%A1" if value == "١" else value
    assert manager.call("GET", f"/v1/files?{name}={value}").error["param"] == name
