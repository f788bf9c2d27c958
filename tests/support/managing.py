"""Adapters as clients send them, and the management routes as they call them."""

from __future__ import annotations

import io
import json
import tarfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgelora.runtime.interface import Runtime
from edgelora.server.http.options import ServerOptions
from tests.support.adapters import TINY, write_peft
from tests.support.server import TEST_OPTIONS, Reply, RunningServer, serving, with_token

FILES = ("adapter_config.json", "adapter_model.safetensors")
BOUNDARY = "XX"
WAIT_SECONDS = 60.0


def zipped(folder: Path, names: tuple[str, ...] = FILES, more: Mapping[str, bytes] | None = None) -> bytes:
    """A zip of an adapter's folder."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.write(folder / name, name)
        for name, data in (more or {}).items():
            archive.writestr(name, data)
    return out.getvalue()


def tarred(folder: Path) -> bytes:
    """A tar.gz of an adapter's folder."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name in FILES:
            archive.add(folder / name, name)
    return out.getvalue()


def tiny_zip(folder: Path, *, seed: int = 0, **config: Any) -> bytes:
    """A zip of an adapter for the fake service's base."""
    return zipped(write_peft(folder, TINY, seed=seed, **config))


def form(data: bytes, *, purpose: str = "fine_tuning", filename: str = "a.zip", **fields: str) -> bytes:
    """A body as the clients send it."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in {"purpose": purpose, **fields}.items()
    ]
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n\r\n'.encode()
    return b"".join([*parts, head, data, f"\r\n--{BOUNDARY}--\r\n".encode()])


@contextmanager
def managing(runtime: Runtime, secrets: Path, options: ServerOptions = TEST_OPTIONS) -> Iterator[Manager]:
    """A running server with a management token in the folder `secrets`, and who has it."""
    with_secrets, headers = with_token(secrets, options)
    with serving(runtime, with_secrets) as server:
        yield Manager(server, headers["Authorization"].removeprefix("Bearer "))


class Manager:
    """Calls the management routes of a running server, with what they ask for."""

    def __init__(self, server: RunningServer, token: str) -> None:
        self.server = server
        self.token = token

    def call(self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> Reply:
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        fields = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json", **(headers or {})}
        return self.server.request(method, path, raw, fields)

    def upload(self, data: bytes, *, prefix: str = "/v1", **fields: str) -> Reply:
        kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        return self.call("POST", f"{prefix}/files", form(data, **fields), kind)

    def uploaded(self, data: bytes) -> str:
        """The id of a file that was sent."""
        reply = self.upload(data)
        assert reply.status == 200, reply.body
        return str(reply.json["id"])

    def ended(self, job_id: str) -> dict[str, Any]:
        """A job, once it has ended."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            job: dict[str, Any] = self.call("GET", f"/v1/jobs/{job_id}").json
            if job["status"] in ("succeeded", "failed", "Complete", "Failed"):
                return job
            time.sleep(0.01)
        raise AssertionError(f"{job_id} did not end")
