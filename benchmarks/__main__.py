"""`python -m benchmarks` lists what can be run."""

from __future__ import annotations

BENCHMARKS = {
    "benchmarks.cold_load": "what it takes to have an adapter that was not in memory, from the page cache and the disk",
    "benchmarks.convert": "what it takes to convert an 84 MB adapter, beside copying it and llama.cpp's way with torch",
    "benchmarks.make_base": "write a random base with the exact shapes of Llama-3.1-8B, and adapters for it",
    "benchmarks.decode": "time decode steps: base, one adapter, 8 adapters on 8 sequences, llama.cpp's own LoRA",
    "benchmarks.draft": "tokens per second with and without drafts, on an answer that copies and on one that does not",
    "benchmarks.http": "what HTTP costs over the engine, requests per second of /v1/models, 100 clients at once",
    "benchmarks.kv_types": "what each type of the KV costs in exactness, and saves in memory",
    "benchmarks.many_adapters": "time a start with 10,000 installed adapters against one with a handful",
    "benchmarks.masks": "what holding an answer to a JSON schema costs a token, over 128,256 tokens",
    "benchmarks.memory": "what k adapters in memory add to the base alone, pages of files told apart",
    "benchmarks.mixed": "8 requests on 8 adapters at once over HTTP, and memory; with --against a llama-server too",
    "benchmarks.serve": "EdgeLoRA's published workload over HTTP; with --against a llama-server too",
    "benchmarks.soak": "full load while adapters come and go: nothing lost, nothing left, memory flat, or exit 1",
    "benchmarks.stall": "the gaps between one answer's tokens while a prompt of 1,000 tokens arrives",
    "benchmarks.swap": "what it costs to go on with another adapter that is in memory",
    "benchmarks.start": "how long a start takes, and what mapped and repacked weights cost and bring",
    "benchmarks.ttft": "time to first token on switching back to an adapter, warm against computing the prompt anew",
}

if __name__ == "__main__":
    for module, purpose in BENCHMARKS.items():
        print(f"python -m {module:<26} {purpose}")
