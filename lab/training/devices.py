"""Several devices for one arm: Lightning's DDP, or its `ModelParallelStrategy` over shares of the model (`lab.training.sharding`), one
process a device, `trainer.batch_size` samples shared out among them.

The process that asked for the training is rank 0; `lab.run.ranks` starts the others. Only rank 0 writes.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from itertools import islice

import torch
from torch.utils.data import Sampler

from lab.config import TrainerSection
from lab.errors import ConfigError


def rank() -> int:
    """The number of this process among those that train one arm together, from 0."""
    return int(os.environ.get("LOCAL_RANK", 0))


def world() -> int:
    """How many processes train one arm together, once they have met."""
    met = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if met else 1


def apart(holds: bool, device: torch.device) -> bool:
    """Whether something holds on some of the processes that train one arm and not on others; all must ask at once."""
    number = torch.tensor(int(holds), device=device)
    torch.distributed.all_reduce(number)
    return 0 < int(number) < world()


def of_all(names: list[str]) -> list[str]:
    """The names that any of the processes has, each once; all must ask at once."""
    if world() == 1:
        return names
    every: list[list[str]] = [[] for _ in range(world())]
    torch.distributed.all_gather_object(every, names)
    return list(dict.fromkeys(itertools.chain.from_iterable(every)))


def on_gpu(section: TrainerSection) -> bool:
    """Whether an arm computes on a GPU of this machine."""
    return section.accelerator != "cpu" and torch.cuda.is_available()


def require(section: TrainerSection) -> None:
    """Raise a `ConfigError` where `trainer.accelerator` or `trainer.devices` asks for what PyTorch does not see on this machine."""
    cuda, mps = torch.cuda.device_count(), int(torch.backends.mps.is_available())
    there = {"cpu": None, "cuda": cuda, "mps": mps}.get(section.accelerator, max(cuda, mps))
    if there == 0 and section.accelerator != "auto":
        raise ConfigError(
            f"trainer.accelerator={section.accelerator}: PyTorch sees no such device on this machine. Legal here: "
            f"{', '.join(['auto', 'cpu', *(['gpu', 'cuda'] if cuda else ['gpu', 'mps'] if mps else [])])}."
        )
    if there and section.devices > there:
        raise ConfigError(
            f"trainer.devices={section.devices}: this machine has {there} GPU(s). Legal: 1 to {there}, or trainer.accelerator=cpu."
        )


def now(device: torch.device) -> float:
    """Seconds on a steady clock, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Share(Sampler[int]):
    """One rank's part of an order: of every `size` samples in it its own slice, so that all ranks see what one would."""

    def __init__(self, order: Sampler[int], size: int) -> None:
        self.order = order
        self.size = size

    def __len__(self) -> int:
        return len(self.order) // world()  # type: ignore[arg-type]  # torch declares no length of samplers; every order here has one

    def __iter__(self) -> Iterator[int]:
        samples, each = iter(self.order), self.size // world()
        while block := list(islice(samples, self.size)):
            yield from block[rank() * each : (rank() + 1) * each]
