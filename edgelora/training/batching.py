"""The batches of examples and their order. Pure, and known from the seed alone: whoever goes on from
iteration n gets the batches that would have come.

Examples of like length share a batch, as in mlx-lm; unlike there those left over are one too, and no other work with
random numbers moves the order.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edgelora.training.tokens import Encoded

PAD_TO = 32
"""Tokens: batches are as wide as a multiple of it and one, so that few shapes have to be compiled."""


def groups(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Indexes of the examples of each batch: at most `size`, neighbours in length."""
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    return [order[first : first + size] for first in range(0, len(order), size)]


def order(count: int, *, seed: int, first: int = 0) -> Iterator[int]:
    """Yield which of `count` batches comes in iteration `first`, `first` + 1 and so on, without end: all of
    them once in each
    pass, shuffled anew."""
    epoch, skipped = divmod(first, count)
    while True:
        shuffled = list(range(count))
        random.Random(f"{seed}:{epoch}").shuffle(shuffled)
        yield from shuffled[skipped:]
        epoch, skipped = epoch + 1, 0


def padded(examples: Sequence[Encoded], max_length: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Tokens [examples, width], zeros behind; and for each [first learnt token, end], as mlx-lm's losses take them."""
    ends = [min(len(example.tokens), max_length) for example in examples]
    width = min(1 + -(-max(ends) // PAD_TO) * PAD_TO, max_length)
    tokens = np.zeros((len(examples), width), np.int32)
    for row, example, end in zip(tokens, examples, ends, strict=True):
        row[:end] = example.tokens[:end]
    return tokens, np.array([(example.offset, end) for example, end in zip(examples, ends, strict=True)], np.int32)
