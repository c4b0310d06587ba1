"""What one example costs: floating-point operations, bytes that pass through memory, and those that a step keeps for its backward.

Counted by torch itself, on a copy of the arm's model without weights (`FakeTensorMode`): every operation of a forward pass from pixels
to logits gets the operations of torch's own formulas (`torch.utils.flop_counter`, 2 for each multiply-add, causal attention whole),
what has no formula the bytes that it reads and writes, unless it is a view; and autograd tells what it keeps (`saved_tensors_hooks`),
each storage once, weights apart. The first token is padding, so that attention has a mask, as it has where examples are of unequal
length. A quantised layer is counted as the plain one that it stands for.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from lab import lora
from lab.config import LoraDial
from lab.costs.operations import OperationCounter, Work, flops_of, structure
from lab.host.files import text_hash
from lab.model import Vlm
from lab.records import Batch, ExampleSize, Media, Target, Tokens

torch.ones((), requires_grad=True).backward()
"""Autograd counts the devices that it needs threads for with its first backward, and fake tensors make it see one where there is
none: a process with such threads could not fork arms any more."""


class FakesOfOneMachine(FakeTensorMode):
    """Asks once for a GPU: PyTorch does at every operation, and where there is none the answer is a search for its driver on disk."""

    @cached_property
    def avoid_device_init(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]  # a property there, which does not keep it
        return not torch.cuda.is_available()


FAKES = FakesOfOneMachine(allow_non_fake_inputs=True)


@dataclass(frozen=True)
class Kept:
    """Bytes that the forward of one example keeps for its backward.

    plain: of all. between: what is kept with gradient checkpointing. largest: of the block that keeps most, which is computed again.
    """

    plain: float
    between: float
    largest: float

    @property
    def checkpointed(self) -> float:
        """What a step keeps with gradient checkpointing."""
        return self.between + self.largest


@dataclass(frozen=True)
class Cost:
    """Of one forward pass. flops: by part (`vision`, `projector`, `llm`, `head`, `adapters`, and `added` by other dials).

    work: by part too. Of a part and `BYTES` what passes through memory beside products, `WEIGHTS` bytes of weights that products read,
    `CALLS` how many operations run; of a part and a width w (a power of 2) the FLOPs of products with a matrix of about w x w, and of a
    part and `ATTENTION` those of attention in one operation. last_block: of it, what the block does that comes last.
    """

    flops: Counter[str]
    kept: Kept
    work: Work = field(default_factory=Counter)
    last_block: Work = field(default_factory=Counter)


COSTS: dict[tuple[str, ExampleSize], Cost] = {}
"""What was counted in this process, by what a model computes: arms that differ in seeds or rates alone count once."""
LEDGERS: dict[str, list[lora.LedgerRow]] = {}
"""Parameters by part, by the same."""
LAST: dict[str, tuple[Vlm, OperationCounter]] = {}
"""The last model without weights that was made, and what counts its operations, by the same."""


class CostModel:
    """What an example costs an arm's model. dial: an adapter and whole parts that are not attached yet.

    A copy of the model without weights, in training mode, is made where something is to be counted.
    """

    def __init__(self, vlm: Vlm, dial: LoraDial | None = None) -> None:
        self.given = vlm, dial
        attends = str(vlm.base_model.config._attn_implementation)
        computes = (vlm.base_model.config.to_json_string(), attends, repr(dial), repr(vlm.reducer), repr(vlm.conditioner), repr(vlm.family))
        self.computes = text_hash(*computes, *map(structure, modules_of(vlm)))

    def cost(self, size: ExampleSize) -> Cost:
        """Of an example of this size, alone."""
        if (self.computes, size) not in COSTS:
            vlm, counter = self.counted
            with counter.counting(), torch.autograd.graph.saved_tensors_hooks(counter.pack, lambda tensor: tensor):
                logits = vlm.predict(blank(vlm, size)).float().flatten(0, 1)
                loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64))
                COSTS[self.computes, size] = Cost(
                    flops_of(counter.work), Kept(*counter.bytes_kept()), counter.work, counter.last_block
                )
                del loss  # with which all that was kept goes
        return COSTS[self.computes, size]

    @property
    def ledger(self) -> list[lora.LedgerRow]:
        """The parameters by part, with the adapter."""
        if self.computes not in LEDGERS:
            LEDGERS[self.computes] = lora.ledger(self.counted[0])
        return LEDGERS[self.computes]

    @property
    def counted(self) -> tuple[Vlm, OperationCounter]:
        """The model without weights, and what counts its operations."""
        if self.computes not in LAST:
            LAST.clear()
            LAST[self.computes] = self.without_weights()
        return LAST[self.computes]

    def without_weights(self) -> tuple[Vlm, OperationCounter]:
        """Such a copy, made anew."""
        vlm = without_weights(*self.given)
        counter = OperationCounter(each for module in modules_of(vlm) for each in (*module.parameters(), *module.buffers()))
        parts = {module: vlm.family.part_of(name) for name, module in vlm.base_model.named_modules()}
        parts |= dict.fromkeys(vlm.family.architecture.head(vlm.base_model).modules(), "head")
        parts |= {module: "adapters" for name, module in vlm.base_model.named_modules() if ".lora_" in name}
        parts |= {module: "added" for extra in vlm.extras.values() for module in extra.modules()}
        for module, part in parts.items():
            if isinstance(module, GradientCheckpointingLayer):
                kind = id(module) if module._forward_pre_hooks else structure(module)  # of hooks of `conditioning` no two are alike
                module.forward = partial(counter.block, module.forward, kind)
            module.register_forward_pre_hook(partial(counter.enter, part))
            module.register_forward_hook(counter.leave)
        return vlm, counter

    def flops(self, sizes: Sequence[ExampleSize]) -> Counter[str]:
        """Operations of a forward pass by part, mean over examples."""
        total = sum((self.cost(size).flops for size in sizes), Counter())
        return Counter({part: number / len(sizes) for part, number in total.items()})


def modules_of(vlm: Vlm) -> list[nn.Module]:
    """The model and what dials have added to it."""
    return [vlm.model, *vlm.extras.values()]


def without_weights(vlm: Vlm, dial: LoraDial | None) -> Vlm:
    """A copy of a model in training mode, its tensors fake, with an adapter and whole parts on it."""
    memo: dict[int, Any] = {id(each): each for each in (vlm.processor, vlm.family)}
    for module in vlm.base_model.modules():
        if type(module).__module__.startswith("bitsandbytes"):
            dtype = getattr(torch, vlm.base["dtype"])
            linear = nn.Linear(module.in_features, module.out_features, module.bias is not None, device="meta", dtype=dtype)
            memo[id(module)] = linear.requires_grad_(False)
    for module in modules_of(vlm):
        memo |= {id(each): nn.Parameter(each.detach().to("meta"), each.requires_grad) for each in module.parameters()}
        memo |= {id(each): each.to("meta") for each in module.buffers()}
    twin = copy.deepcopy(replace(vlm, initial={}, full={}), memo)
    if dial is not None and (dial.r or dial.full):
        with torch.device("meta"):
            sized = lora.sized(twin, dial)  # by its own initialisation, then attached by one that reads no weights
            lora.attach(twin, replace(sized, trainable_parameters=None, init_lora_weights="default"))
    fakes: dict[int, Any] = {}
    module: Any
    for module in (each for root in modules_of(twin) for each in root.modules()):
        module.training, module.gradient_checkpointing = True, False
        for tensors in (module._parameters, module._buffers):
            for name, each in tensors.items():
                if each is not None and not isinstance(each, FakeTensor):
                    fake = FakeTensor(FAKES, each.detach(), torch.device("cpu")).requires_grad_(each.requires_grad)
                    tensors[name] = fakes.setdefault(id(each), fake)
    return twin


def blank(vlm: Vlm, size: ExampleSize) -> Batch:
    """A batch of one example of this size, its first token padding, its pixels fake."""
    images, beside = vlm.family.architecture, vlm.family.answers == "beside"
    config, number, labels = vlm.base_model.config, sum(size.tokens), size.rows if vlm.family.answers != "inline" else size.rows - 1
    ids = torch.zeros(1, size.length, dtype=torch.int64)
    prefix = images.in_prompt and (vlm.conditioner is None or vlm.conditioner.prefix)
    ids[:, 1 : 1 + number * prefix] = getattr(config, "image_token_id", 0)
    types, mask = torch.zeros_like(ids), torch.ones_like(ids)
    types[:, 1 : 1 + number * prefix], mask[:, 0] = 1, 0
    row = torch.zeros(1, size.rows, dtype=torch.int64)
    second = images.stack_second([[0] * (size.length - number * prefix)], [len(size.grids)])
    with FAKES:
        pixels = [torch.empty(images.pixel_shape(config, grid)) for grid in size.grids]
    return Batch(
        sample_ids=("",),
        prompt=Tokens(ids, mask, torch.zeros_like(ids).expand(3, 1, -1) if images.position_axes == 3 else torch.zeros_like(ids), types),
        media=Media(
            counts=(len(size.grids),),
            grids=tuple(images.merged(config, grid) for grid in size.grids),
            tokens=size.tokens,
            pixels=images.stack(pixels, size.grids) | second if pixels else None,
        ),
        target=Target(torch.zeros(1, labels, dtype=torch.int64) if labels else None, size.rows),
        media_order=((),),
        answer=Tokens(row, torch.ones_like(row), row, row) if beside else None,
    )
