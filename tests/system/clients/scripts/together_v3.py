"""together 3: its base URL has no /v1; models are registered in a project, then given their files."""

import pathlib
import tempfile
import zipfile

import together
from checks import ARCHIVE, ASK, MARK, REPOSITORY, TOKEN, URL, case, main, raises, until
from together_answers import answers

options = {
    "base_url": URL,
    "project_id": "proj_1",
    "max_retries": 0,
    "timeout": 120,
    "_strict_response_validation": True,
}
client = together.Together(api_key="local", **options)
manager = together.Together(api_key=TOKEN, **options)
ENDED = ("REMOTE_UPLOAD_STATUS_SUCCEEDED", "REMOTE_UPLOAD_STATUS_FAILED", "REMOTE_UPLOAD_STATUS_ERROR")


@case
def chat():
    made = client.chat.completions.create(model="medical-faq", messages=ASK)
    assert MARK in made.choices[0].message.content
    stream = client.chat.completions.create(model="medical-faq", messages=ASK, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert text == made.choices[0].message.content


@case
def errors():
    raises(together.NotFoundError, lambda: client.chat.completions.create(model="nobody", messages=ASK))
    raises(together.AuthenticationError, lambda: client.models.list())


@case
def remote_upload():
    model = manager.models.create(base_model_id="edgelora-tiny", name="together-3", type="adapter")
    upload = manager.models.remote_uploads.create(model_id=model.id, remote_url=f"https://huggingface.co/{REPOSITORY}")
    state = until(lambda: manager.models.remote_uploads.retrieve(upload.id), lambda one: one.status in ENDED)
    assert state.status == ENDED[0], state
    assert model.id in [one.id for one in manager.models.list().data]
    assert MARK in client.chat.completions.create(model="together-3", messages=ASK).choices[0].message.content
    manager.models.delete(model.id)
    raises(together.NotFoundError, lambda: client.chat.completions.create(model="together-3", messages=ASK))


@case
def local_upload():
    model = manager.models.create(base_model_id="edgelora-tiny", name="together-3-local", type="adapter")
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(ARCHIVE).extractall(folder)
        upload_folder(model.id, pathlib.Path(folder))
    assert MARK in client.chat.completions.create(model="together-3-local", messages=ASK).choices[0].message.content
    manager.models.delete(model.id)


def upload_folder(model_id, folder):
    """As the package's own command line does it."""
    import hashlib

    import httpx

    files = [path for path in folder.iterdir() if path.is_file()]
    offered = [{"path": path.name, "hash": hashlib.md5(path.read_bytes()).hexdigest(), "numParts": 1} for path in files]
    at = "/v2/projects/proj_1/models/upload"
    plan = manager.post(f"{at}/create", cast_to=object, body={"objectId": model_id, "files": offered})
    done = []
    for file in plan["files"]:
        if file.get("skipUpload"):
            continue
        for part in file["parts"]:
            put = httpx.put(part["url"], content=(folder / file["path"]).read_bytes(), headers=part["headers"])
            put.raise_for_status()
        done.append({"path": file["path"], "uploadDetails": {"uploadId": file["uploadId"]}})
    ended = manager.post(f"{at}/complete", cast_to=object, body={"objectId": model_id, "files": done})
    assert ended["revisionId"]


answers(client)
main()
