"""Together's upload of local files: create, a PUT of each part to a signed URL, complete.

The URLs need no key, as with any object store: each upload has a secret in their query, which is never logged. Uploads
are in memory and their parts on disk. After a restart the uploads are gone, and their parts are swept from the folder.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from anyio import to_thread
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from edgelora.core.errors import Busy, NotFound
from edgelora.runtime.install.sources import PartsSource
from edgelora.server.api.together.parts import MAX_FILES, ReceivedParts, make_plan
from edgelora.server.api.together.projects import MODELS_PATH, ProjectsRoutes, check_project
from edgelora.server.api.together.replies import Revision
from edgelora.server.http.endpoint import TEXT, Access, Endpoint, Media, Parameter
from edgelora.server.http.errors import Forbidden
from edgelora.server.http.validation import invalid, typed
from edgelora.server.management.jobs import Task
from edgelora.server.management.manager import Manager, in_thread, reply, warning_fields
from edgelora.store.uploads import Incoming

PART_BYTES = 64 << 20
"""Maximum size of a part."""
MAX_UPLOADS = 16
"""Maximum number of incomplete uploads."""
LIFETIME = 3600.0
"""Seconds that an upload is kept after its latest part."""
KIND = "local_upload"

Text = Annotated[str, Meta(min_length=1, max_length=512)]


class OfferedFile(Struct, frozen=True, rename="camel"):
    path: Text
    hash: Text
    num_parts: Annotated[int, Meta(ge=0, le=10_000)]


class CreateUploadBody(Struct, frozen=True, rename="camel"):
    object_id: Text
    files: Annotated[list[OfferedFile], Meta(min_length=1, max_length=MAX_FILES)]


class UploadDetails(Struct, frozen=True, rename="camel"):
    upload_id: str | None = None


class SentPart(Struct, frozen=True, rename="camel"):
    upload_details: UploadDetails | None = None


class CompleteUploadBody(Struct, frozen=True, rename="camel"):
    object_id: Text
    files: Annotated[list[SentPart], Meta(max_length=MAX_FILES)] = []


@dataclass(slots=True)
class _Upload:
    id: str
    model: str
    """The name of the model."""
    secret: str
    received: ReceivedParts
    deadline: float
    """Time at which the upload expires, in seconds of time.monotonic."""
    parts: dict[tuple[int, int], Incoming] = field(default_factory=dict)
    """The parts on disk by the numbers of file and part."""
    ending: bool = False
    """True once it is being completed."""

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts.values())

    def close(self) -> None:
        for part in self.parts.values():
            part.close()


class PartRoutes:
    """The endpoints and the incomplete uploads. Not thread-safe: event loop only."""

    def __init__(self, manager: Manager, projects: ProjectsRoutes) -> None:
        self._manager = manager
        self._projects = projects
        self._uploads: dict[str, _Upload] = {}

    def endpoints(self) -> tuple[Endpoint, ...]:
        path, access = f"{MODELS_PATH}/upload", Access.MANAGEMENT
        return (
            Endpoint(
                "POST", f"{path}/create", self.create, access, "beginUpload", "Begin an upload of files in parts",
                body=CreateUploadBody, reply=dict,
            ),
            Endpoint(
                "POST", f"{path}/complete", self.complete, access, "completeUpload",
                "Complete an upload and install the adapter",
                body=CompleteUploadBody, reply=Revision,
            ),
            Endpoint(
                "PUT", "/v2/uploads/{upload}/{file:number}/{piece:number}", self.put, Access.SIGNED, "putPiece",
                "Upload a part to its signed URL", media=Media.BYTES, reply_media=TEXT,
                query=(Parameter("signature", {"type": "string"}, "The signature of the URL."),),
            ),
        )  # fmt: skip

    async def create(self, request: Request) -> Response:
        """Begin an upload. Replies with the URLs of the parts; files that the adapter does not need are skipped."""
        check_project(request)
        body = typed(await self._manager.read(request), CreateUploadBody)
        model = await in_thread(lambda: self._projects.find(body.object_id, param="objectId"))
        offered = {file.path: (file.hash, file.num_parts) for file in body.files}
        if len(offered) < len(body.files):
            raise invalid("files", "names a path twice")
        plan = make_plan(offered)
        await self._expire()
        if len(self._uploads) >= MAX_UPLOADS:
            raise Busy("too_many_uploads", f"{MAX_UPLOADS} uploads are not complete yet.", "Complete some first.")
        upload = _Upload(
            id=secrets.token_hex(12),
            model=model.name,
            secret=secrets.token_urlsafe(24),
            received=ReceivedParts(plan),
            deadline=time.monotonic() + LIFETIME,
        )
        self._uploads[upload.id] = upload
        return reply(
            {"files": [*_signed_files(request, upload), *({"path": p, "skipUpload": True} for p in plan.skipped)]}
        )

    async def put(self, request: Request) -> Response:
        """Receive a part. The reply's ETag is its MD5."""
        upload = self._signed(request)
        key = (request.path_params["file"], request.path_params["piece"])
        upload.received.check(*key)
        options = self._manager.options
        limit = min(PART_BYTES, max(0, options.upload_bytes - upload.nbytes))
        async with self._manager.reception.receiving(request.scope, request.receive, limit=limit) as arrival:
            md5 = await arrival.raw()
            await to_thread.run_sync(arrival.incoming.sync)
            if upload.ending or self._uploads.get(upload.id) is not upload:
                raise _unknown(upload.id)
            before = upload.parts.get(key)
            upload.parts[key] = arrival.hold()
        upload.received.hashes[key] = md5
        upload.deadline = time.monotonic() + LIFETIME
        if before is not None:
            await to_thread.run_sync(before.close)
        return Response(status_code=200, headers={"etag": f'"{md5}"'})

    async def complete(self, request: Request) -> Response:
        """Install the adapter, and reply when it is installed. If that fails, the upload is deleted."""
        check_project(request)
        body = typed(await self._manager.read(request), CompleteUploadBody)
        model = await in_thread(lambda: self._projects.find(body.object_id, param="objectId"))
        upload = self._named(body, model.name)
        upload.received.check_complete()
        upload.ending = True
        del self._uploads[upload.id]
        try:
            source = PartsSource(_paths(upload))
            installed = await self._manager.install(Task(KIND, upload.model, str(source), group=model.id), source)
        finally:
            upload.close()
        revision = f"{installed.version.number}-{installed.version.digest[:12]}"
        return reply({"revisionId": revision, "warnings": warning_fields(installed.version)})

    def _named(self, body: CompleteUploadBody, model: str) -> _Upload:
        """Return the upload that the files name, or else the model's latest. Raises NotFound."""
        details = [file.upload_details for file in body.files if file.upload_details is not None]
        ids = [detail.upload_id for detail in details if detail.upload_id]
        for upload in reversed(self._uploads.values()):
            if upload.model == model and (not ids or upload.id in ids):
                return upload
        raise _unknown(model)

    def _signed(self, request: Request) -> _Upload:
        """Return the upload of a signed URL. Raises NotFound, Forbidden."""
        upload = self._uploads.get(request.path_params["upload"])
        if upload is None:
            raise _unknown(str(request.path_params["upload"]))
        given = request.query_params.get("signature", "")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), upload.secret.encode()):
            raise Forbidden("bad_signature", "The URL's signature is wrong.", "Use the URL as it was given out.")
        return upload

    async def _expire(self) -> None:
        now = time.monotonic()
        for old in [upload for upload in self._uploads.values() if upload.deadline < now]:
            del self._uploads[old.id]
            await to_thread.run_sync(old.close)


def _signed_files(request: Request, upload: _Upload) -> list[dict[str, object]]:
    # The guard has checked that the Host header has an allowed name.
    origin = f"{request.url.scheme}://{request.headers['host']}"
    return [
        {
            "path": file.path,
            "uploadId": upload.id,
            "parts": [
                {
                    "partNumber": part,
                    "url": f"{origin}/v2/uploads/{upload.id}/{number}/{part}?signature={upload.secret}",
                    "headers": {},
                }
                for part in range(1, file.parts + 1)
            ],
        }
        for number, file in enumerate(upload.received.plan.files)
    ]


def _paths(upload: _Upload) -> Mapping[str, tuple[Path, ...]]:
    return {
        file.name: tuple(upload.parts[number, part].sync() for part in range(1, file.parts + 1))
        for number, file in enumerate(upload.received.plan.files)
    }


def _unknown(upload: str) -> NotFound:
    return NotFound(
        "upload", upload, (), "It was completed, has expired, or the server was restarted: create it again."
    )
