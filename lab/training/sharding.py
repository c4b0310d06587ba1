"""An arm whose weights, gradients and optimizer state lie in equal shares on several devices: PyTorch's `fully_shard` (FSDP2).

Each block of the language model is one group, gathered while it computes; all else is another, gathered as a whole, so that a tied
embedding and its head are in one group, and a rank whose samples have no pictures gathers what the others do. What is sharded is a twin of
the model, which itself waits in the host's memory, gets what was learned as a whole, and is in no way changed.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from lab.config import Experiment
from lab.errors import ConfigError
from lab.lora import seeing
from lab.model import Vlm
from lab.records import Batch, Regions
from lab.training import devices

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

MESH = "data_parallel"
"""Lightning's name of the dimension of its mesh along which samples are shared out, and weights with them."""


OPTIMIZERS = ("AdamW", "Adam", "SGD")
"""Those that take each number of a tensor by itself, and take its shares as they take a whole tensor."""


def check(x: Experiment, kind: str | None) -> None:
    """Say what `trainer.strategy=fsdp` cannot do. kind: of the answers. Raises `ConfigError`."""
    optimizer, quantisation, dtype = x.optim.optimizer, x.model.quantisation.value, x.model.dtype.value
    looks = kind == Regions.kind and x.trainer.val_every is not None
    refused = {
        f"trainer.devices={x.trainer.devices}": (x.trainer.devices == 1, "one device has no other to share with. Give trainer.devices=2 or more"),
        f"model.quantisation={quantisation}": (quantisation != "none", "weights of few bits cannot be cut into shares. Give "
                                               "model.quantisation=none, or trainer.strategy=ddp"),
        f"model.dtype={dtype}": (dtype == "float16", "the factor of the loss would be found on each device by itself. Give model.dtype=bfloat16"),
        f"optim.optimizer={optimizer}": (optimizer not in OPTIMIZERS, f"it does not take shares of a tensor. Legal here: {', '.join(OPTIMIZERS)}"),
        "trainer.packing=true": (x.trainer.packing, "that samples of a row do not read each other is shown on a whole model. Give "
                                 "trainer.packing=false, or trainer.strategy=ddp"),
        f"trainer.val_every={x.trainer.val_every}": (looks, "boxes of minival are written by a whole model. Give trainer.val_every=null, data "
                                                     "of another kind, or trainer.strategy=ddp"),
    }  # fmt: skip
    for key, (given, why) in refused.items():
        if given:
            raise ConfigError(f"trainer.strategy=fsdp, {key}: {why}.")


class Sharded(torch.nn.Module):
    """A model in shares, which predicts as `Vlm.predict`. mesh: of the devices, one dimension."""

    def __init__(self, vlm: Vlm, mesh: DeviceMesh) -> None:
        super().__init__()
        self.vlm, self.model, self.extras = vlm, vlm.model, torch.nn.ModuleDict(vlm.extras)
        block = re.compile(vlm.family.parts["llm"].block)
        for module in [module for name, module in vlm.base_model.named_modules() if block.fullmatch(name)]:
            fully_shard(module, mesh=mesh)
        fully_shard(self, mesh=mesh)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits as `Vlm.predict`.

        Where only some ranks have pictures, what reads them has a gradient of zeros on the others, through all that follows it, as all must
        gather and exchange the same; where none has any it has none, as in one process.
        """
        reading = seeing(self.vlm) if torch.is_grad_enabled() else {}
        apart = bool(reading) and devices.apart(bool(batch.media.grids), batch.prompt.ids.device)
        words = self.vlm.base_model.get_input_embeddings()
        hook = words.register_forward_hook(lambda module, ids, embedded: with_zeros(embedded, reading) if apart else None)
        try:
            logits = self.vlm.predict(batch)
        finally:
            hook.remove()
        return with_zeros(logits, reading) if reading and not logits.requires_grad else logits


def with_zeros(value: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The same numbers, of which parameters have a gradient of zeros."""
    return value + sum(0.0 * parameter.flatten()[:1].sum() for parameter in parameters.values())


def twin(vlm: Vlm) -> Vlm:
    """The same model in modules and parameters of its own, over the same numbers."""
    bases = [own.base for own in vlm.full.values()]
    initial = [tensor for first in vlm.initial.values() for tensor in first if tensor is not None]
    memo: dict[int, object] = {id(each): each for each in (vlm.processor, vlm.family, *bases, *initial)}
    for module in (vlm.model, *vlm.extras.values()):
        memo |= {id(each): torch.nn.Parameter(each.detach(), each.requires_grad) for each in module.parameters()}
    return copy.deepcopy(vlm, memo)


@contextlib.contextmanager
def on_host(vlm: Vlm) -> Iterator[None]:
    """Within, all weights of a model lie in the host's memory, those of the base in whose place an arm has its own too."""
    device = vlm.device

    def move(to: torch.device) -> None:
        for module in (vlm.model, *vlm.extras.values()):
            module.to(to)
        for own in vlm.full.values():
            own.base.data = own.base.data.to(to)

    move(torch.device("cpu"))
    try:
        yield
    finally:
        move(device)


def collect(learned: Mapping[str, torch.Tensor], into: Mapping[str, torch.Tensor]) -> None:
    """Copy tensors, whole, into those of the same names; all ranks must do so at once."""
    with torch.no_grad():
        for name, tensor in into.items():
            tensor.copy_(whole(learned[name]))


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as it is in one process; of one in shares, all ranks must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors, whole, on rank 0; elsewhere those that are not in shares. One after another, so that a device holds one whole tensor at a time."""
    found = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, DTensor):
            found[name] = tensor
        elif (value := whole(tensor.detach())) is not None and devices.rank() == 0:
            found[name] = value.cpu()
    return found


def shared_out(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A whole tensor, known to every rank, in the shares of another."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's share of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
