"""The order in which samples are learned from: a function of the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class SeededOrder(Sampler[int]):
    """Every sample once an epoch, shuffled by (seed, epoch) alone; goes on for as many epochs as are asked for.

    start: how many of the first samples are left out, because a run before this one has seen them. views: each epoch counts on, so that
    a place says its epoch too (`lab.training.augmentation`).
    """

    def __init__(self, num_samples: int, seed: int, epochs: int, start: int = 0, views: bool = False) -> None:
        self.num_samples = num_samples
        self.seed = seed
        self.epochs = epochs
        self.start = start
        self.views = views

    def __len__(self) -> int:
        return self.num_samples * self.epochs - self.start

    def __iter__(self) -> Iterator[int]:
        for epoch in range(self.start // max(self.num_samples, 1), self.epochs):
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            order = torch.randperm(self.num_samples, generator=generator) + (epoch * self.num_samples if self.views else 0)
            yield from order[max(0, self.start - epoch * self.num_samples) :].tolist()
