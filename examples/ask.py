"""Ask every model of a running server one question. Run `edgelora serve` in one terminal and this in another.

pip install openai
python examples/ask.py "What is hypertension?"
"""

import os
import sys

from openai import OpenAI

# Only the base URL differs from OpenAI's. Without keys, a local server accepts any key.
client = OpenAI(base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8321/v1"), api_key="local")


def main(question: str) -> None:
    for model in client.models.list():
        print(f"\n{model.id}: ", end="", flush=True)
        stream = client.chat.completions.create(
            model=model.id,
            messages=[{"role": "user", "content": question}],
            stream=True,
        )
        for chunk in stream:
            if chunk.choices:
                print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "What is hypertension?")
