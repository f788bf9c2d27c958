"""together 2: its base URL ends in /v1; an adapter is uploaded from a repository and polled as a job."""

import together
from checks import ASK, MARK, REPOSITORY, TOKEN, URL, case, main, raises, until
from together_answers import answers

client = together.Together(
    base_url=f"{URL}/v1", api_key="local", max_retries=0, timeout=120, _strict_response_validation=True
)
manager = together.Together(
    base_url=f"{URL}/v1", api_key=TOKEN, max_retries=0, timeout=120, _strict_response_validation=True
)


@case
def models():
    assert {"edgelora-tiny", "medical-faq"} <= {model.id for model in client.models.list()}


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
    raises(together.BadRequestError, lambda: client.chat.completions.create(model="sql", messages=[]))


@case
def upload_poll_call():
    def upload(one, **change):
        return one.models.upload(
            model_name="together-2", model_source=change.get("source", REPOSITORY), model_type="adapter"
        )

    raises(together.AuthenticationError, lambda: upload(client))
    job = upload(manager).data
    state = until(lambda: manager.models.uploads.status(job.job_id), lambda one: one.status in ("Complete", "Failed"))
    assert state.status == "Complete", state
    made = client.chat.completions.create(model=job.x_model_name, messages=ASK)
    assert MARK in made.choices[0].message.content
    bad = upload(manager, source="nobody/nothing").data
    state = until(lambda: manager.models.uploads.status(bad.job_id), lambda one: one.status in ("Complete", "Failed"))
    assert state.status == "Failed" and state.status_updates


answers(client)
main()
