"""/v1/files: uploading archives of adapters, in OpenAI's shapes. Other endpoints install them."""

from __future__ import annotations

from pathlib import Path

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response

from edgelora.core.errors import AdapterUnsupported, UsageError
from edgelora.server.api.openai.replies import Deleted, File, FileList
from edgelora.server.http.endpoint import Access, Endpoint, Media, Parameter
from edgelora.server.http.multipart import FormReader
from edgelora.server.http.upload_body import FORM_BYTES
from edgelora.server.http.validation import invalid, missing
from edgelora.server.management.manager import Manager, in_thread, reply
from edgelora.store.uploads import Incoming, UploadedFile

PURPOSES = ("fine_tuning", "fine-tune")
"""Groq's name of the purpose, and OpenAI's."""
DAY = 24 * 3600
DEFAULT_SECONDS = 30 * DAY
MIN_SECONDS, MAX_SECONDS = 3600, 30 * DAY
MAX_LIMIT = 10_000

_FORM = {
    "type": "object",
    "properties": {
        "file": {
            "type": "string",
            "format": "binary",
            "description": "A zip or tar.gz of a PEFT adapter, or a GGUF adapter.",
        },
        "purpose": {"enum": list(PURPOSES)},
        "expires_after[anchor]": {"enum": ["created_at"]},
        "expires_after[seconds]": {"type": "string"},
    },
    "required": ["file", "purpose"],
}
_PAGE = (
    Parameter("purpose", {"type": "string"}, "Return only files with this purpose."),
    Parameter("limit", {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT}, "Maximum number of items."),
    Parameter("order", {"enum": ["asc", "desc"], "default": "desc"}, "Order by time."),
    Parameter("after", {"type": "string"}, "Return the files after the one with this id."),
)


class FilesRoutes:
    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._uploads = manager.uploads

    def endpoints(self) -> tuple[Endpoint, ...]:
        path, access = "/v1/files", Access.MANAGEMENT
        return (
            Endpoint(
                "GET", path, self.index, access, "listFiles",
                "List the uploaded files", reply=FileList, query=_PAGE,
            ),
            Endpoint(
                "POST", path, self.create, access, "createFile", "Upload an archive of an adapter",
                media=Media.FORM, body=_FORM, reply=File,
            ),
            Endpoint(
                "GET", f"{path}/{{id}}", self.retrieve, access, "retrieveFile",
                "Retrieve an uploaded file", reply=File,
            ),
            Endpoint(
                "DELETE", f"{path}/{{id}}", self.delete, access, "deleteFile",
                "Delete an uploaded file", reply=Deleted,
            ),
        )  # fmt: skip

    async def create(self, request: Request) -> Response:
        """Receive an archive. Its container is checked now, its content when it is installed."""
        limit = self._manager.options.upload_bytes + FORM_BYTES
        content_type = request.headers.get("content-type", "")
        reception = self._manager.reception
        async with reception.receiving(request.scope, request.receive, limit=limit) as arrival:
            form = await arrival.form(content_type)
            file = await to_thread.run_sync(_keep, arrival.incoming, form)
        return reply(file_fields(file))

    async def index(self, request: Request) -> Response:
        query = request.query_params
        files = await to_thread.run_sync(self._uploads.every)
        page, more = select(files, purpose=query.get("purpose"), order=query.get("order", "desc"),
                            after=query.get("after"), limit=query.get("limit"))  # fmt: skip
        ends = {"first_id": page[0].id, "last_id": page[-1].id} if page else {"first_id": None, "last_id": None}
        return reply({"object": "list", "data": [file_fields(file) for file in page], "has_more": more, **ends})

    async def retrieve(self, request: Request) -> Response:
        file_id = request.path_params["id"]
        return reply(file_fields(await in_thread(lambda: self._uploads.get(file_id))))

    async def delete(self, request: Request) -> Response:
        file_id = request.path_params["id"]
        gone = await in_thread(lambda: self._uploads.delete(file_id))
        return reply({"id": gone.id, "object": "file", "deleted": True})


def file_fields(file: UploadedFile) -> dict[str, object]:
    """OpenAI's FileObject; Groq's is the same without `status`."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.nbytes,
        "created_at": int(file.created),
        "expires_at": int(file.expires),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    }


def select(
    files: list[UploadedFile], *, purpose: str | None, order: str, after: str | None, limit: str | None
) -> tuple[list[UploadedFile], bool]:
    """Return a page of `files`, which are oldest first, and whether more follow it. Raises UsageError."""
    if order not in ("asc", "desc"):
        raise invalid("order", "must be 'asc' or 'desc'")
    count = int(limit) if limit is not None and limit.isascii() and limit.isdigit() and len(limit) < 9 else None
    if limit is not None and (count is None or not 1 <= count <= MAX_LIMIT):
        raise invalid("limit", f"must be a number from 1 to {MAX_LIMIT}")
    chosen = [file for file in files if purpose in (None, file.purpose)]
    if order == "desc":
        chosen.reverse()
    if after is not None:
        ids = [file.id for file in chosen]
        if after not in ids:
            raise invalid("after", "is not the id of a file in the list")
        chosen = chosen[ids.index(after) + 1 :]
    size = count or MAX_LIMIT
    return chosen[:size], len(chosen) > size


def lifetime(fields: dict[str, str]) -> float:
    """Return the seconds that a file is kept, from OpenAI's `expires_after`. Raises UsageError."""
    anchor, text = (fields.get(f"expires_after[{name}]") for name in ("anchor", "seconds"))
    if anchor is None and text is None:
        return DEFAULT_SECONDS
    if anchor != "created_at":
        raise invalid("expires_after[anchor]", "must be 'created_at'")
    seconds = int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 12 else 0
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        raise invalid("expires_after[seconds]", f"must be from {MIN_SECONDS} to {MAX_SECONDS}")
    return seconds


def _keep(incoming: Incoming, form: FormReader) -> UploadedFile:
    purpose = form.fields.get("purpose")
    if purpose is None:
        raise missing("purpose")
    if purpose not in PURPOSES:
        raise invalid("purpose", f"must be one of {', '.join(map(repr, PURPOSES))}: this server takes only adapters")
    seconds, name = lifetime(form.fields), form.filename or ""
    _check_archive(incoming.sync(), name)
    return incoming.keep(filename=name, purpose=purpose, seconds=seconds)


def _check_archive(path: Path, name: str) -> None:
    """Raises AdapterUnsupported unless the content, whatever its name, is a zip, tar.gz or GGUF file."""
    from edgelora_converters.archive.unpack import source_kind
    from edgelora_converters.peft.folder import PICKLES, refuse_pickle

    try:
        if Path(name).suffix.lower() in PICKLES:
            raise refuse_pickle(name)
        source_kind(path)
    except AdapterUnsupported as error:
        if error.code == "adapter_container":
            message = f"{name} is neither a zip, tar.gz nor GGUF file."
            remedy = "Send a GGUF adapter, or an archive of adapter_config.json and adapter_model.safetensors."
            raise UsageError(error.code, message, remedy, param="file") from None
        error.param = "file"
        raise
