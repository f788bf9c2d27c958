"""Finding the stored prefix that a prompt begins with. An origin's folder is listed on first use and after changes.

So a start costs nothing, however many files there are. Thread-safe. Reads names only; whether a file is what its name
says is found out when it is read.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass

from edgelora.store.prefixes.layout import PrefixLayout, StoredPrefix
from edgelora.store.prefixes.origin import token_bytes

GROUPS = 256
"""Listings remembered at most, the latest used."""


@dataclass(frozen=True, slots=True)
class _Listing:
    changed_ns: int
    """Modification time of the folder when it was listed."""
    lengths: tuple[int, ...]
    """Ascending."""
    files: dict[tuple[int, str], StoredPrefix]


class Index:
    def __init__(self, layout: PrefixLayout) -> None:
        self._layout = layout
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Listing] = OrderedDict()

    def find(self, group: str, tokens: tuple[int, ...], *, low: int, high: int) -> StoredPrefix | None:
        """Return the longest prefix of `tokens` in this group with `low` to `high` tokens. Raises OSError."""
        listing = self._listing(group)
        if listing is None:
            return None
        data, longest = token_bytes(tokens[:high]), None
        digest, done = hashlib.sha256(), 0
        for length in listing.lengths:
            if length > min(high, len(tokens)):
                break
            digest.update(data[4 * done : 4 * length])
            done = length
            stored = listing.files.get((length, digest.copy().hexdigest()[:32])) if length >= low else None
            longest = stored or longest
        return longest

    def forget(self, group: str) -> None:
        """List it anew when it is next asked for: for changes within one tick of the disk's clock."""
        with self._lock:
            self._known.pop(group, None)

    def _listing(self, group: str) -> _Listing | None:
        try:
            changed = self._layout.group(group).stat().st_mtime_ns
        except FileNotFoundError:
            self.forget(group)
            return None
        with self._lock:
            listing = self._known.get(group)
            if listing is not None and listing.changed_ns == changed:
                self._known.move_to_end(group)
                return listing
        files = {(stored.length, stored.digest): stored for stored in self._layout.in_group(group)}
        listing = _Listing(changed, tuple(sorted({length for length, _ in files})), files)
        with self._lock:
            self._known[group] = listing
            while len(self._known) > GROUPS:
                self._known.popitem(last=False)
        return listing
