"""A mapping whose values are made when they are asked for, for what is too large to have all at once. Owns no file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TypeVar

Key = TypeVar("Key")
Made = TypeVar("Made", covariant=True)


class LazyMapping(Mapping[Key, Made]):
    """`make(key)` for each of `keys`, every time anew: nothing is kept."""

    def __init__(self, keys: Collection[Key], make: Callable[[Key], Made]) -> None:
        self._keys = dict.fromkeys(keys)
        self._make = make

    def __getitem__(self, key: Key) -> Made:
        if key not in self._keys:
            raise KeyError(key)
        return self._make(key)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)
