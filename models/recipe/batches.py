"""Batches of token ids: chats of similar length side by side, padded on the right."""

import random
from collections.abc import Callable, Iterator

import numpy as np
import torch
from chat import Example

Batch = tuple[torch.Tensor, torch.Tensor]


def pad(examples: list[Example], pad_id: int) -> Batch:
    """(ids, weights), each [rows, longest example]; padding has weight 0."""
    longest = max(len(example.ids) for example in examples)
    ids = np.full((len(examples), longest), pad_id, np.int64)
    weights = np.zeros((len(examples), longest), np.float32)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = example.ids
        weights[row, : len(example.ids)] = example.weights
    return torch.from_numpy(ids), torch.from_numpy(weights)


def batches(draw: Callable[[], Example], *, tokens: int, pad_id: int, rng: random.Random) -> Iterator[Batch]:
    """Endless batches of at most `tokens` ids each, drawn in pools so that rows of a batch are about as long."""
    while True:
        pool: list[Example] = []
        while sum(len(example.ids) for example in pool) < 16 * tokens:
            pool.append(draw())
        pool.sort(key=lambda example: len(example.ids))
        groups: list[list[Example]] = [[]]
        for example in pool:
            if (len(groups[-1]) + 1) * len(example.ids) > tokens:
                groups.append([])
            groups[-1].append(example)
        rng.shuffle(groups)
        for group in groups:
            yield pad(group, pad_id)
