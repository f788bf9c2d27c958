"""Import an adapter from a Hugging Face repository with Together's client, wait for it and ask it a question.

pip install "together>=3"
export TOGETHER_BASE_URL=http://127.0.0.1:8321 TOGETHER_PROJECT_ID=mine TOGETHER_API_KEY=$(edgelora keys token)
python examples/together_upload.py some-org/some-lora my-adapter edgelora-tiny "What is hypertension?"
"""

import sys
import time

from together import Together

WAITING = ("REMOTE_UPLOAD_STATUS_PENDING", "REMOTE_UPLOAD_STATUS_RUNNING")


def main(repository: str, name: str, base: str, question: str) -> None:
    client = Together()
    model = client.models.create(base_model_id=base, name=name, type="adapter")
    upload = client.models.remote_uploads.create(model_id=model.id, remote_url=f"https://huggingface.co/{repository}")
    while upload.status in WAITING:
        time.sleep(0.5)
        upload = client.models.remote_uploads.retrieve(upload.id)
    print(upload.status, upload.status_message)
    answer = client.chat.completions.create(
        model=name,
        messages=[{"role": "user", "content": question}],
    )
    print(answer.choices[0].message.content)


if __name__ == "__main__":
    main(*sys.argv[1:])
