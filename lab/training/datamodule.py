"""Examples in batches: the LightningDataModule that serves an arm."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from lab.config import Augment, TrainerSection
from lab.host.forks import FORK
from lab.model.batching import pack
from lab.model.encoded import Example
from lab.model.trees import lay_out
from lab.records import Batch, Rows
from lab.training import devices
from lab.training.examples import Examples
from lab.training.ordering import Blocks, SeededOrder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab.training.augmentation import Views


MOST_TRAIN = 256
"""Examples of train that are scored beside minival, at most."""


def views_of(examples: Examples, augment: Augment, seed: int) -> Views:
    """Views of examples. Raises `ConfigError` as `lab.training.augmentation.Views` does."""
    from lab.training.augmentation import Views  # torchvision's transforms take half a second to import

    return Views(examples.split, examples.encoder, augment, seed)


class DataModule(L.LightningDataModule):
    """Serves `train` in seeded order and `minival` in file order, as `Batch` records.

    layout: how the samples of a forward are laid out, rows or trees, once `trainer.layout` is settled.
    micro: samples per forward, of all devices together, and forwards per optimizer step. done: optimizer steps that a run before this
        one has taken. augment: what becomes of the pictures that are learned from; None: nothing. blocks: that the order shuffles.
    """

    def __init__(
        self,
        train: Examples,
        minival: Examples,
        section: TrainerSection,
        micro: tuple[int, int],
        seed: int,
        steps: int,
        done: int = 0,
        augment: Augment | None = None,
        blocks: Blocks | None = None,
    ) -> None:
        super().__init__()
        self.train = train
        self.blocks = blocks
        self.minival = minival
        self.section = section
        self.layout = "rows"
        self.batch_size, self.accumulate = micro
        self.effective = self.batch_size * self.accumulate
        epochs = -(-steps * self.effective // max(train.epoch_length, 1))
        self.views = None if augment is None else views_of(train, augment, seed)
        self.order = self.order_from(done, seed, epochs)
        self.tokens: dict[int, int] = {}

    def loader(
        self, examples: Examples | Views, sampler: Iterable[int] | None, batch_size: int, generator: torch.Generator | None = None,
        learned: bool = False,
    ) -> DataLoader[Any]:
        """A loader of batches with answers, or with all that is learned of them.

        generator: what it draws from instead of PyTorch's global one, which dropout draws from.
        """

        def collate(items: Sequence[Example]) -> Batch | Rows:
            if learned and self.layout == "trees":
                return lay_out(examples.encoder, items, self.section.token_budget)
            if learned and self.section.packing:
                return pack(examples.encoder, items)
            return examples.encoder.collate(items, with_answers=True, learned=learned)

        return DataLoader(
            examples,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=collate,
            num_workers=self.section.num_workers,
            multiprocessing_context=FORK if self.section.num_workers and sys.platform == "linux" else None,
            pin_memory=devices.on_gpu(self.section),
            persistent_workers=False,
            generator=generator,
        )

    def train_dataloader(self) -> DataLoader[Any]:
        examples = self.views or self.train
        if devices.world() == 1:
            return self.loader(examples, self.order, self.batch_size, learned=True)
        return self.loader(examples, devices.Share(self.order, self.batch_size), self.batch_size // devices.world(), learned=True)

    def upcoming(self, forwards: int, first: bool = False) -> list[Example]:
        """The samples of the next forwards, or of the first that the training has."""
        examples = self.views or self.train
        order = self.order_from(0, self.order.seed, self.order.epochs) if first else self.order
        return [examples[i] for i in itertools.islice(order, forwards * self.batch_size)]

    def order_from(self, step: int, seed: int, epochs: int) -> SeededOrder:
        """The order from an optimizer step on."""
        start, views = step * self.effective, self.views is not None
        return SeededOrder(self.train.epoch_length, seed, epochs, start, views, self.train.sources, self.blocks)

    def weight(self, batch: Batch | Rows, step: int) -> float:
        """What a forward's mean loss counts in an optimizer step, from 0, which minimises the mean over the learned tokens of all its
        forwards, on all devices: the forward's tokens times how many forwards there are, over the tokens of all.
        """
        forwards = self.accumulate * devices.world()
        if forwards == 1:
            return 1.0
        if step not in self.tokens:
            order = self.order_from(step, self.order.seed, self.order.epochs)
            examples = self.views or self.train
            self.tokens = {step: sum(map(examples.targets, itertools.islice(order, self.effective)))}
        return batch.targets * forwards / self.tokens[step]

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """Minival, and as much of train as it is large, so that both are scored alike (`objective.WATCHED_SPLITS`)."""
        first = range(min(len(self.minival), self.train.alike, MOST_TRAIN))
        return [self.loader(self.minival, None, self.batch_size), self.loader(self.train, first, self.batch_size, torch.Generator())]
