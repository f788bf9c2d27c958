"""The operations that change what is installed, or see files."""

from __future__ import annotations

from edgelora.server.api.adapters import AddAdapterBody, AliasBody, RollbackBody
from edgelora.server.api.groq import FineTuningBody
from edgelora.server.api.openai.files import MAX_LIMIT, PURPOSES
from edgelora.server.api.together.part_routes import CompleteUploadBody, CreateUploadBody
from edgelora.server.api.together.projects import ImportBody, RegisterBody
from edgelora.server.api.together.upload import Upload
from edgelora.server.api.vllm import LoadAdapterBody, UnloadAdapterBody
from edgelora.server.http.endpoint import Operation, Parameter
from edgelora.server.openapi import management_replies as replies

_FILE_FORM = {
    "type": "object",
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "A zip or tar.gz of a PEFT adapter."},
        "purpose": {"enum": list(PURPOSES)},
        "expires_after[anchor]": {"enum": ["created_at"]},
        "expires_after[seconds]": {"type": "string"},
    },
    "required": ["file", "purpose"],
}
_FILE_PAGE = (
    Parameter("purpose", {"type": "string"}, "Only files for this."),
    Parameter("limit", {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT}, "How many at most."),
    Parameter("order", {"enum": ["asc", "desc"], "default": "desc"}, "The latest first, or the first."),
    Parameter("after", {"type": "string"}, "Those behind the file with this id."),
)
_TEXT = "text/plain"

_FILES = (
    Operation("GET", "/v1/files", "listFiles", "What was uploaded", reply=replies.FileList, query=_FILE_PAGE),
    Operation("POST", "/v1/files", "createFile", "Upload an archive", form=_FILE_FORM, reply=replies.File),
    Operation("GET", "/v1/files/{id}", "retrieveFile", "One upload", reply=replies.File),
    Operation("DELETE", "/v1/files/{id}", "deleteFile", "Delete an upload", reply=replies.Deleted),
)
_FINE_TUNINGS = (
    Operation("GET", "/v1/fine_tunings", "listFineTunings", "Adapters, Groq's way", reply=replies.FineTuningList),
    Operation(
        "POST", "/v1/fine_tunings", "createFineTuning", "Install an upload, Groq's way",
        body=FineTuningBody, reply=replies.FineTuningObject,
    ),
    Operation("GET", "/v1/fine_tunings/{id}", "retrieveFineTuning", "One version", reply=replies.FineTuningObject),
    Operation("DELETE", "/v1/fine_tunings/{id}", "deleteFineTuning", "Uninstall a version", reply=replies.Deleted),
)  # fmt: skip
_ADAPTERS = (
    Operation("GET", "/v1/adapters", "listAdapters", "Every adapter, and what is in memory", reply=replies.AdapterList),
    Operation(
        "POST", "/v1/adapters", "addAdapter", "Install an upload or a repository's adapter",
        body=AddAdapterBody, reply=replies.InstallJob, status=202,
    ),
    Operation("GET", "/v1/adapters/{name}", "retrieveAdapter", "One of them", reply=replies.Adapter),
    Operation("DELETE", "/v1/adapters/{name}", "deleteAdapter", "Uninstall it", reply=replies.DeletedAdapter),
    Operation("POST", "/v1/adapters/{name}/pin", "pinAdapter", "Keep it in memory", reply=replies.Adapter),
    Operation("POST", "/v1/adapters/{name}/unpin", "unpinAdapter", "It may be evicted again", reply=replies.Adapter),
    Operation("POST", "/v1/adapters/{name}/warm", "warmAdapter", "Bring it into memory", reply=replies.Adapter),
    Operation(
        "POST", "/v1/adapters/{name}/rollback", "rollBackAdapter", "Have the name mean an older version",
        body=RollbackBody, reply=replies.Adapter,
    ),
    Operation(
        "PUT", "/v1/adapters/{name}/aliases/{alias}", "pointAlias", "Have an alias mean a version",
        body=AliasBody, reply=replies.Adapter,
    ),
    Operation(
        "DELETE", "/v1/adapters/{name}/aliases/{alias}", "deleteAlias", "Take an alias away", reply=replies.Adapter
    ),
    Operation("DELETE", "/v1/models/{id}", "deleteModel", "Uninstall an adapter", reply=replies.Deleted),
    Operation("GET", "/v1/jobs", "listJobs", "What is being installed, and was", reply=replies.JobList),
    Operation("GET", "/v1/jobs/{id}", "retrieveJob", "One of them", reply=replies.InstallJob),
    Operation(
        "POST", "/v1/load_lora_adapter", "loadLoraAdapter", "Install and load, vLLM's way",
        body=LoadAdapterBody, media=_TEXT,
    ),
    Operation(
        "POST", "/v1/unload_lora_adapter", "unloadLoraAdapter", "Unload, vLLM's way",
        body=UnloadAdapterBody, media=_TEXT,
    ),
)  # fmt: skip

_PROJECT = "/v2/projects/{project}/models"
_TOGETHER = (
    Operation(
        "POST", "/v1/models", "uploadModel", "Install an adapter, Together's way", body=Upload, reply=replies.UploadJob
    ),
    Operation("GET", _PROJECT, "listProjectModels", "Adapters, Together's way", reply=replies.ProjectModelList),
    Operation("POST", _PROJECT, "createProjectModel", "Register one", body=RegisterBody, reply=replies.ProjectModel),
    Operation("GET", f"{_PROJECT}/{{id}}", "retrieveProjectModel", "One of them", reply=replies.ProjectModel),
    Operation("DELETE", f"{_PROJECT}/{{id}}", "deleteProjectModel", "Uninstall one", reply=dict),
    Operation("GET", f"{_PROJECT}/uploads", "listRemoteUploads", "Imports", reply=replies.RemoteUploadList),
    Operation(
        "POST", f"{_PROJECT}/uploads", "createRemoteUpload", "Import from a repository",
        body=ImportBody, reply=replies.RemoteUpload,
    ),
    Operation("GET", f"{_PROJECT}/uploads/{{id}}", "retrieveRemoteUpload", "An import", reply=replies.RemoteUpload),
    Operation(
        "GET", f"{_PROJECT}/uploads/{{id}}/events", "listRemoteUploadEvents", "How it went",
        reply=replies.UploadEventList,
    ),
    Operation(
        "POST", f"{_PROJECT}/upload/create", "beginUpload", "Send files in pieces", body=CreateUploadBody, reply=dict
    ),
    Operation(
        "POST", f"{_PROJECT}/upload/complete", "completeUpload", "Install what was sent",
        body=CompleteUploadBody, reply=replies.Revision,
    ),
    Operation(
        "PUT", "/v2/uploads/{upload}/{file}/{piece}", "putPiece", "One piece, to the address that was given out",
        raw="application/octet-stream", media=_TEXT,
        query=(Parameter("signature", {"type": "string"}, "As it was given out."),),
    ),
)  # fmt: skip

MANAGEMENT: tuple[Operation, ...] = (*_FILES, *_FINE_TUNINGS, *_ADAPTERS, *_TOGETHER)
