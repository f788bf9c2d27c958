"""kill -9 of the whole server in the middle of an upload and of an installation: what is on disk works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest

from edgelora.server.run import EdgeServer
from edgelora.store.adapters.store import Store
from edgelora.store.uploads import Uploads
from tests.support.managing import BOUNDARY, Manager, form, tiny_zip
from tests.support.server import RunningServer, head_bytes


@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
def test_a_killed_server_leaves_a_store_that_verifies(tmp_path: Path) -> None:
    """The file that was there is whole, the one that was being sent is not there, and the next server goes on."""
    command = [sys.executable, "-m", "tests.support.upload_kill", str(tmp_path)]
    archive = tiny_zip(tmp_path / "adapter")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])
    try:
        assert process.stdout is not None
        port, token = process.stdout.readline().split()
        manager = Manager(RunningServer(f"http://127.0.0.1:{port}", cast(EdgeServer, None)), token)
        kept = manager.uploaded(archive)
        fields = {"Host": "localhost", "Authorization": f"Bearer {token}"}
        fields["Content-Type"] = f"multipart/form-data; boundary={BOUNDARY}"
        body = form(archive * 200)
        connection = manager.server.connect()
        connection.sendall(head_bytes("POST", "/v1/files", fields, len(body)) + body[: len(body) // 2])
        manager.call("POST", "/v1/adapters", {"name": "sql", "file_id": kept})
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    connection.close()
    data = tmp_path / "home" / "data"
    uploads, store = Uploads(data / "uploads", budget_bytes=1 << 30), Store(data)
    assert [file.id for file in uploads.every()] == [kept] and store.verify() == ()
    with uploads.borrowed(uploads.get(kept)) as path:
        assert path.read_bytes() == archive
    assert not store.names() or store.resolve("sql")[1].number == 1
