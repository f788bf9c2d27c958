"""Together's upload of local files: create, a PUT for each piece to an address that was given out, complete.

The addresses need no key, as with any object store: each upload's has a secret, in the query, which is never logged.
An upload is in memory with its pieces on disk; a restart forgets it, and the sweep of the uploads' folder its pieces.
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
from edgelora.server.management.manager import Manager, in_thread, reply
from edgelora.store.uploads import Incoming

PIECE_BYTES = 64 << 20
MAX_UPLOADS = 16
"""That are begun and not complete."""
LIFETIME = 3600.0
"""Seconds after its last piece that an upload is kept."""
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
    """Its name."""
    secret: str
    ledger: ReceivedParts
    deadline: float
    """time.monotonic."""
    pieces: dict[tuple[int, int], Incoming] = field(default_factory=dict)
    ending: bool = False

    @property
    def nbytes(self) -> int:
        return sum(piece.nbytes for piece in self.pieces.values())

    def close(self) -> None:
        for piece in self.pieces.values():
            piece.close()


class PartRoutes:
    """On the event loop only, but for the disk."""

    def __init__(self, manager: Manager, projects: ProjectsRoutes) -> None:
        self._manager = manager
        self._projects = projects
        self._uploads: dict[str, _Upload] = {}

    def endpoints(self) -> tuple[Endpoint, ...]:
        path, access = f"{MODELS_PATH}/upload", Access.MANAGEMENT
        return (
            Endpoint(
                "POST", f"{path}/create", self.create, access, "beginUpload", "Send files in pieces",
                body=CreateUploadBody, reply=dict,
            ),
            Endpoint(
                "POST", f"{path}/complete", self.complete, access, "completeUpload", "Install what was sent",
                body=CompleteUploadBody, reply=Revision,
            ),
            Endpoint(
                "PUT", "/v2/uploads/{upload}/{file:int}/{piece:int}", self.put, Access.SIGNED, "putPiece",
                "One piece, to the address that was given out", media=Media.BYTES, reply_media=TEXT,
                query=(Parameter("signature", {"type": "string"}, "As it was given out."),),
            ),
        )  # fmt: skip

    async def create(self, request: Request) -> Response:
        """Files that are no part of an adapter are not asked for."""
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
            ledger=ReceivedParts(plan),
            deadline=time.monotonic() + LIFETIME,
        )
        self._uploads[upload.id] = upload
        return reply(
            {"files": [*_addresses(request, upload), *({"path": p, "skipUpload": True} for p in plan.skipped)]}
        )

    async def put(self, request: Request) -> Response:
        """One piece. The answer's ETag is its md5."""
        upload = self._signed(request)
        key = (request.path_params["file"], request.path_params["piece"])
        upload.ledger.check(*key)
        options = self._manager.options
        limit = min(PIECE_BYTES, max(0, options.upload_bytes - upload.nbytes))
        async with self._manager.reception.receiving(request.scope, request.receive, limit=limit) as arrival:
            md5 = await arrival.raw()
            await to_thread.run_sync(arrival.incoming.sync)
            if upload.ending or self._uploads.get(upload.id) is not upload:
                raise _unknown(upload.id)
            before = upload.pieces.get(key)
            upload.pieces[key] = arrival.hold()
        upload.ledger.came[key] = md5
        upload.deadline = time.monotonic() + LIFETIME
        if before is not None:
            await to_thread.run_sync(before.close)
        return Response(status_code=200, headers={"etag": f'"{md5}"'})

    async def complete(self, request: Request) -> Response:
        """Answers when the adapter is installed; what is wrong with it is the answer then, and nothing is kept."""
        check_project(request)
        body = typed(await self._manager.read(request), CompleteUploadBody)
        model = await in_thread(lambda: self._projects.find(body.object_id, param="objectId"))
        upload = self._named(body, model.name)
        upload.ledger.check_complete()
        upload.ending = True
        del self._uploads[upload.id]
        try:
            source = PartsSource(_paths(upload))
            installed = await self._manager.install(Task(KIND, upload.model, str(source), group=model.id), source)
        finally:
            upload.close()
        return reply({"revisionId": f"{installed.version.number}-{installed.version.digest[:12]}"})

    def _named(self, body: CompleteUploadBody, model: str) -> _Upload:
        """The upload that the files name, or else the model's latest. Raises NotFound."""
        details = [file.upload_details for file in body.files if file.upload_details is not None]
        ids = [detail.upload_id for detail in details if detail.upload_id]
        for upload in reversed(self._uploads.values()):
            if upload.model == model and (not ids or upload.id in ids):
                return upload
        raise _unknown(model)

    def _signed(self, request: Request) -> _Upload:
        """Raises NotFound, Forbidden."""
        upload = self._uploads.get(request.path_params["upload"])
        if upload is None:
            raise _unknown(str(request.path_params["upload"]))
        given = request.query_params.get("signature", "")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), upload.secret.encode()):
            raise Forbidden("bad_signature", "The address is not one that was given out.", "Use it as it was given.")
        return upload

    async def _expire(self) -> None:
        now = time.monotonic()
        for old in [upload for upload in self._uploads.values() if upload.deadline < now]:
            del self._uploads[old.id]
            await to_thread.run_sync(old.close)


def _addresses(request: Request, upload: _Upload) -> list[dict[str, object]]:
    # The Host header has been held against the allowed names before any route is reached.
    origin = f"{request.url.scheme}://{request.headers['host']}"
    return [
        {
            "path": file.path,
            "uploadId": upload.id,
            "parts": [
                {
                    "partNumber": piece,
                    "url": f"{origin}/v2/uploads/{upload.id}/{number}/{piece}?signature={upload.secret}",
                    "headers": {},
                }
                for piece in range(1, file.pieces + 1)
            ],
        }
        for number, file in enumerate(upload.ledger.plan.wanted)
    ]


def _paths(upload: _Upload) -> Mapping[str, tuple[Path, ...]]:
    return {
        file.name: tuple(upload.pieces[number, piece].sync() for piece in range(1, file.pieces + 1))
        for number, file in enumerate(upload.ledger.plan.wanted)
    }


def _unknown(upload: str) -> NotFound:
    return NotFound("upload", upload, (), "It was completed, is too old, or the server was restarted: create it again.")
