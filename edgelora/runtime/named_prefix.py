"""Computes a named prefix in chunks, so that progress can be reported.

Each chunk continues from the cached KV of the previous one.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from edgelora.core.errors import UsageError
from edgelora.core.events import Failed
from edgelora.core.files import check_name
from edgelora.core.progress import Progress
from edgelora.core.request import AdapterUse, Request
from edgelora.core.sampling_params import SamplingParams
from edgelora.engine.prefix_cache.cache import PrefixCache, PrefixWrite
from edgelora.store.prefixes.layout import StoredPrefix

if TYPE_CHECKING:
    from edgelora.engine.client import EngineClient

PIECE = 64
"""Number of tokens between two progress reports. Each chunk costs one additional token's logits."""


def add_named(
    engine: EngineClient,
    cache: PrefixCache | None,
    tokens: tuple[int, ...],
    *,
    uses: tuple[AdapterUse, ...],
    name: str,
    progress: Progress | None = None,
) -> StoredPrefix:
    """Compute the KV of these tokens, or read it from disk, and keep it under `name`.

    Raises UsageError (bad name, empty prefix, or prefixes switched off), ContextTooLong, StorageError (code
    prefix_budget if it does not fit), and any error that ends a request.
    """
    check_name(name, kind="prefix")
    if cache is None:
        raise UsageError("no_prefixes", "Prefixes are switched off.", "Allow them some disk (EDGELORA_PREFIX_DISK).")
    if not tokens:
        raise UsageError("empty_prefix", "The chat template says nothing of a system message.", "Use another base.")
    cache.know_base(None if progress is None else lambda done, total: progress("Reading the base", done, total))
    keep = PrefixWrite(frozenset(use.key for use in uses), tokens, name)
    ends = [] if cache.there(keep) else range(PIECE, len(tokens), PIECE)
    for end in ends:
        _compute(engine, tokens[:end], uses, None)
        if progress is not None:
            progress(f"Computing {name}", end, len(tokens))
    _compute(engine, tokens, uses, keep)
    stored = keep.done.result()
    if progress is not None:
        progress(f"Computing {name}", len(tokens), len(tokens))
    return stored


def _compute(
    engine: EngineClient, tokens: tuple[int, ...], uses: tuple[AdapterUse, ...], keep: PrefixWrite | None
) -> None:
    request = Request(uuid.uuid4().hex, tokens, uses, SamplingParams(max_tokens=1))
    *_, last = engine.submit(request, keep=keep)
    if isinstance(last, Failed):
        raise last.error
