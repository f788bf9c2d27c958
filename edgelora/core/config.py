"""Settings, read once: the only reader of the environment. Everything else receives these values."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import platformdirs

from edgelora.core.errors import UsageError

KvType = Literal["f16", "f32", "q8_0", "q4_0"]


Weights = Literal["mapped", "repacked"]
Kernel = Literal["auto", "native", "numpy"]


MIB = 1 << 20
WeightsChoice = Literal["auto", "mapped", "repacked"]
Speculate = Literal["auto", "off"]
BackendChoice = Literal["auto", "mlx", "llama.cpp"]
MemoryCheck = Literal["on", "off"]
WEIGHTS: tuple[WeightsChoice, ...] = get_args(WeightsChoice)
KV_TYPES: tuple[KvType, ...] = get_args(KvType)


@dataclass(frozen=True, slots=True)
class Directories:
    """The folders edgelora uses: all below EDGELORA_HOME where that is set, else the platform's own."""

    data: Path
    """The store: adapters, conversions, base records. Losing it loses installed adapters."""
    cache: Path
    """Downloaded bases. Losing it costs a download."""
    state: Path
    """Logs, the chat history, and what `edgelora tune` measured."""
    config: Path
    """The management token and the API keys: files that only this user can read."""


@dataclass(frozen=True, slots=True)
class Settings:
    directories: Directories
    offline: bool
    """No network, by EDGELORA_OFFLINE or HF_HUB_OFFLINE."""
    api_key: str | None
    """Required by the server off loopback (EDGELORA_API_KEY)."""
    context_length: int
    """Tokens per sequence the runtime asks for; never more than the base was made for (EDGELORA_CONTEXT)."""
    max_sequences: int
    """Sequences computed side by side (EDGELORA_SEQUENCES)."""
    max_queue: int
    """Requests that may wait before a new one is refused (EDGELORA_QUEUE)."""
    adapter_budget_bytes: int
    """Memory for resident adapters (EDGELORA_ADAPTER_MEMORY, in MiB)."""
    prefix_disk_bytes: int
    """Disk for prompts' beginnings, named ones included; 0 keeps none (EDGELORA_PREFIX_DISK, in MiB)."""
    upload_disk_bytes: int
    """Disk for what the server's clients upload, until it expires (EDGELORA_UPLOAD_DISK, in MiB)."""
    threads: int | None
    """Compute threads; None: what `edgelora tune` measured, or one per physical core (EDGELORA_THREADS)."""
    weights: WeightsChoice
    """Form in which llama.cpp holds the base (EDGELORA_WEIGHTS); `runtime.opening` resolves auto."""
    kv_type: KvType
    """Element type of the KV cache (EDGELORA_KV_TYPE)."""
    pins: tuple[str, ...]
    """Adapters a server keeps in memory from its start on (EDGELORA_PIN: names with commas or spaces between)."""
    kernel: Kernel
    """Implementation that adds adapters in llama.cpp (EDGELORA_KERNEL). auto: the native kernel if it was built."""
    memory_check: MemoryCheck
    """Policy for a base that does not fit into memory (EDGELORA_MEMORY_CHECK)."""
    backend: BackendChoice
    """Backend that computes (EDGELORA_BACKEND); `store.bases.selection` chooses the base for it."""
    speculate: Speculate
    """Speculative decoding by prompt lookup (EDGELORA_SPECULATE). auto: where measurements show that it pays."""


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment (the process's own by default). Raises UsageError naming a bad variable."""
    env = os.environ if environ is None else environ
    threads = _count(env, "EDGELORA_THREADS", 0, low=0)
    return Settings(
        directories=_directories(env),
        offline=_flag(env, "EDGELORA_OFFLINE") or _flag(env, "HF_HUB_OFFLINE"),
        api_key=env.get("EDGELORA_API_KEY") or None,
        context_length=_count(env, "EDGELORA_CONTEXT", 4096, low=16),
        max_sequences=_count(env, "EDGELORA_SEQUENCES", 8, low=1),
        max_queue=_count(env, "EDGELORA_QUEUE", 64, low=1),
        adapter_budget_bytes=_count(env, "EDGELORA_ADAPTER_MEMORY", 1024, low=1) * MIB,
        prefix_disk_bytes=_count(env, "EDGELORA_PREFIX_DISK", 4096, low=0) * MIB,
        upload_disk_bytes=_count(env, "EDGELORA_UPLOAD_DISK", 8192, low=1) * MIB,
        threads=threads or None,
        weights=cast(WeightsChoice, _choice(env, "EDGELORA_WEIGHTS", WEIGHTS)),
        kv_type=cast(KvType, _choice(env, "EDGELORA_KV_TYPE", KV_TYPES)),
        pins=tuple(env.get("EDGELORA_PIN", "").replace(",", " ").split()),
        kernel=cast(Kernel, _choice(env, "EDGELORA_KERNEL", get_args(Kernel))),
        memory_check=cast(MemoryCheck, _choice(env, "EDGELORA_MEMORY_CHECK", get_args(MemoryCheck))),
        backend=cast(BackendChoice, _choice(env, "EDGELORA_BACKEND", get_args(BackendChoice))),
        speculate=cast(Speculate, _choice(env, "EDGELORA_SPECULATE", get_args(Speculate))),
    )


def _directories(env: Mapping[str, str]) -> Directories:
    home = env.get("EDGELORA_HOME")
    if home:
        root = Path(home).expanduser().absolute()
        return Directories(data=root / "data", cache=root / "cache", state=root / "state", config=root)
    dirs = platformdirs.PlatformDirs("edgelora", appauthor=False)
    return Directories(
        data=dirs.user_data_path,
        cache=dirs.user_cache_path,
        state=dirs.user_state_path,
        config=dirs.user_config_path,
    )


def _flag(env: Mapping[str, str], name: str) -> bool:
    return env.get(name, "").strip().lower() in {"1", "true", "yes", "on"}


def _choice(env: Mapping[str, str], name: str, choices: Sequence[str]) -> str:
    """Return the value of a variable that must be one of `known`; the first of them if it is not set."""
    text = env.get(name, "").strip().lower() or choices[0]
    if text not in choices:
        listed = f"{', '.join(choices[:-1])} or {choices[-1]}"
        raise UsageError("bad_setting", f"{name} is {text!r}.", f"Set it to {listed}, or unset it.")
    return text


def _count(env: Mapping[str, str], name: str, default: int, *, low: int) -> int:
    text = env.get(name, "").strip()
    if not text:
        return default
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if value < low:
        raise UsageError(
            "bad_setting", f"{name} is {text!r}.", f"Set it to a whole number of at least {low}, or unset it."
        )
    return value
