"""Upload an adapter with Groq's client, register it and ask it a question. Only the base URL differs.

pip install groq
export GROQ_BASE_URL=http://127.0.0.1:8321 GROQ_API_KEY=$(edgelora keys token)
python examples/groq_upload.py ./my-adapter.zip my-adapter edgelora-tiny "What is hypertension?"

The archive contains adapter_config.json and adapter_model.safetensors, as PEFT saves them.
"""

import sys
from pathlib import Path

from groq import Groq


def main(archive: str, name: str, base: str, question: str) -> None:
    client = Groq()
    file = client.files.create(file=(Path(archive).name, Path(archive).read_bytes()), purpose="fine_tuning")
    tuning = client.post(
        "/v1/fine_tunings",
        cast_to=object,
        body={"input_file_id": file.id, "name": name, "type": "lora", "base_model": base},
    )
    model = tuning["data"]["fine_tuned_model"]
    print(model)
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        stream=True,
    )
    for chunk in stream:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()


if __name__ == "__main__":
    main(*sys.argv[1:])
