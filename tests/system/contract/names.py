"""What the server under test has: names and ids that right requests can name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.managing import Manager, managing, tiny_zip
from tests.support.service import FakeService

MODEL = "tiny"
ADAPTER = "a"
"""Answers in the scripted service of `tests/support/service.py`."""
KEPT = "kept"
"""Is installed."""
_GONE = "gone"
"""Was never there: what deletes must not take away what the others need."""


@dataclass(frozen=True, slots=True)
class Known:
    """Of one running server."""

    manager: Manager
    file: str
    tuning: str
    job: str
    model: str
    """Of Together's project."""
    upload: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.manager.token}"}

    def parameters(self, method: str, path: str) -> Mapping[str, str]:
        """Of an operation's path."""
        if path.startswith("/v1/responses/"):
            return {"id": self._response(background=path.endswith("/cancel"))}
        ids = {"/v1/files": self.file, "/v1/fine_tunings": self.tuning, "/v1/jobs": self.job, "/v1/models": MODEL}
        found = next((one for start, one in ids.items() if path.startswith(start)), self.model)
        if "/uploads/{id}" in path:
            found = self.upload
        if method == "DELETE":
            return {"project": "mine", "name": _GONE, "id": _GONE}
        return {"project": "mine", "name": KEPT, "id": found}

    def _response(self, *, background: bool) -> str:
        body: dict[str, Any] = {"model": MODEL, "input": "Hi", "background": background}
        return str(self.manager.server.post("/v1/responses", body).json["id"])


@contextmanager
def known_server(folder: Path) -> Iterator[Known]:
    """A server over the scripted service, with an adapter installed and everything that names one."""
    with FakeService(folder, adapters={ADAPTER: "Yes."}) as service, managing(service, folder / "secrets") as manager:
        file = manager.uploaded(tiny_zip(folder / "source"))
        job = manager.call("POST", "/v1/adapters", {"name": KEPT, "file_id": file}).json["id"]
        assert manager.ended(job)["status"] == "succeeded"
        models = "/v2/projects/mine/models"
        model = manager.call("GET", models).json["data"][0]["id"]
        upload = manager.call("POST", f"{models}/uploads", {"modelId": model, "remoteUrl": "nobody/nothing"})
        tuning = manager.call("GET", "/v1/fine_tunings").json["data"][0]["id"]
        yield Known(manager, file, tuning, job, model, upload.json["id"])
