"""groq 1: chat with a base URL of its own, and the upload of an adapter as Groq takes it."""

import groq
from checks import ARCHIVE, ASK, MARK, TOKEN, URL, case, main, raises

BASE = "llama-3.1-8b-instant"
client = groq.Groq(base_url=URL, api_key="local", max_retries=0, timeout=120, _strict_response_validation=True)
manager = groq.Groq(base_url=URL, api_key=TOKEN, max_retries=0, timeout=120)


@case
def models():
    ids = [model.id for model in client.models.list().data]
    assert {"edgelora-tiny", "medical-faq"} <= set(ids)
    assert client.models.retrieve("medical-faq").id == "medical-faq"


@case
def chat():
    made = client.chat.completions.create(model="medical-faq", messages=ASK)
    assert MARK in made.choices[0].message.content and made.usage.completion_tokens > 0
    chunks = list(client.chat.completions.create(model="medical-faq", messages=ASK, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == made.choices[0].message.content
    assert chunks[0].x_groq.id == chunks[-1].x_groq.id
    assert chunks[-1].x_groq.usage.completion_tokens == made.usage.completion_tokens
    for tier in ("auto", "on_demand", "flex", "performance"):
        told = client.chat.completions.create(model="medical-faq", messages=ASK, max_tokens=1, service_tier=tier)
        assert told.service_tier == "on_demand"


@case
def errors():
    ask = client.chat.completions.create
    raises(groq.NotFoundError, lambda: ask(model="nobody", messages=ASK))
    raises(groq.BadRequestError, lambda: ask(model="sql", messages=[]))


@case
def upload_register_call_delete():
    file = manager.files.create(file=("adapter.zip", ARCHIVE.read_bytes()), purpose="fine_tuning")
    body = {"input_file_id": file.id, "name": "groq-1", "type": "lora", "base_model": "edgelora-tiny"}
    raises(groq.AuthenticationError, lambda: client.post("/v1/fine_tunings", cast_to=object, body=body))
    made = manager.post("/v1/fine_tunings", cast_to=object, body=body)
    assert made["object"] == "fine_tuning" and made["id"].startswith("ft_")
    model = made["data"]["fine_tuned_model"]
    assert model.startswith("ft:edgelora-tiny:org_") and "/groq-1-" in model
    assert MARK in client.chat.completions.create(model=model, messages=ASK).choices[0].message.content
    listed = manager.get("/v1/fine_tunings", cast_to=object)
    assert made["id"] in [one["id"] for one in listed["data"]]
    assert manager.get(f"/v1/fine_tunings/{made['id']}", cast_to=object)["data"]["name"] == "groq-1"
    gone = manager.delete(f"/v1/fine_tunings/{made['id']}", cast_to=object)
    assert gone == {"id": made["id"], "object": "fine_tuning", "deleted": True}
    raises(groq.NotFoundError, lambda: client.chat.completions.create(model=model, messages=ASK))
    assert manager.files.delete(file.id).deleted


@case
def a_wrong_base_is_told():
    file = manager.files.create(file=("adapter.zip", ARCHIVE.read_bytes()), purpose="fine_tuning")
    body = {"input_file_id": file.id, "name": "groq-2", "type": "lora", "base_model": BASE}
    raises(groq.APIStatusError, lambda: manager.post("/v1/fine_tunings", cast_to=object, body=body))


main()
