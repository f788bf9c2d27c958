"""`python -m benchmarks` lists the benchmarks, group by group."""

from __future__ import annotations

BENCHMARKS = {
    "harness": {
        "make_base": "write a random base with the exact shapes of Llama-3.1-8B, and adapters for it",
    },
    "throughput": {
        "decode": "decode steps: base, one adapter, 8 adapters on 8 sequences, llama.cpp's own LoRA",
        "mixed": "8 requests on 8 adapters at once over HTTP, and memory; --against a llama-server",
        "draft": "tokens per second with and without drafts, on answers that copy and that do not",
        "kv_types": "what each KV type costs in exactness and saves in memory",
        "many_adapters": "a start with 10,000 installed adapters against one with a handful",
        "masks": "the cost of guided decoding per token, over 128,256 tokens",
    },
    "latency": {
        "cold_load": "loading an adapter that is not in memory, from the page cache and from disk",
        "convert": "converting an 84 MB adapter, beside copying it and llama.cpp's way with torch",
        "stall": "the gaps between one answer's tokens while a prompt of 1,000 tokens arrives",
        "start": "the time of a start, with mapped and with repacked weights",
        "swap": "going on with another adapter that is in memory",
        "ttft": "time to first token on switching back to an adapter, cached and computed anew",
    },
    "serving": {
        "http": "what HTTP adds to the engine; /v1/models requests per second; 100 clients at once",
        "memory": "what k adapters in memory add to the base, file pages counted apart",
        "serve": "EdgeLoRA's published workload over HTTP; --against a llama-server",
        "soak": "full load while adapters come and go: exit 1 where anything leaks or is lost",
    },
}
"""By folder, then by module: what each benchmark measures."""


def main() -> None:
    for group, members in BENCHMARKS.items():
        print(f"{group}:")
        for name, purpose in members.items():
            print(f"  python -m benchmarks.{group}.{name:<14} {purpose}")


if __name__ == "__main__":
    main()
