"""The operations that run within a dispatch mode, counted by the part of the model that is running, and what autograd keeps of them."""

from __future__ import annotations

import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

aten = torch.ops.aten
Work = Counter[tuple[str, str | int]]
"""Numbers by part and what they count: `lab.costs.counting.Cost`."""
FORMULAS = {
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q.shape, k.shape, v.shape),
}
BYTES, WEIGHTS, CALLS, ATTENTION = "bytes", "weights", "calls", 0
IDLE = (aten._unsafe_view, aten.empty, aten.empty_like, aten.new_empty, aten.empty_strided)
"""Operations that move nothing, beside views."""
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


def flops_of(work: Work) -> Counter[str]:
    """Floating-point operations by part."""
    found = Counter[str]()
    for (part, what), number in work.items():
        if isinstance(what, int):
            found[part] += number
    return found


class OperationCounter(TorchDispatchMode):
    """Counts what runs within it, by the part that is running, and what autograd keeps of it. weights: tensors that are there anyway.

    Of blocks that are alike, in what they are and in what comes into them, one is run for all: models have dozens, and an operation
    without weights takes as long as a small one with them.
    """

    def __init__(self, weights: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.weights = {each.untyped_storage()._cdata: each.untyped_storage() for each in weights}
        self.blocks: dict[Any, tuple[Any, Work, float]] = {}

    def counting(self) -> OperationCounter:
        """From nothing."""
        self.work, self.parts = Work(), ["other"]
        self.packed: list[weakref.ref[torch.Tensor]] = []
        self.seen, self.entering, self.in_blocks = dict(self.weights), 0.0, [0.0]
        self.shared, self.last_block = 0.0, Work()
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in INDEXING:  # a mask with values says what a fake one does not: how many it chooses
            places = [each.nonzero(as_tuple=True) if is_mask(each) else (each,) for each in args[1]]
            args = (args[0], [each for some in places for each in some], *args[2:])
        out = func(*args, **(kwargs or {}))
        part = self.parts[-1]
        if formula := FORMULAS.get(func.overloadpacket):
            flops = formula(*args, **(kwargs or {}), out_val=out)
            attends = "attention" in str(func)
            self.work[part, ATTENTION if attends else width(flops, out)] += flops
            self.work[part, WEIGHTS] += sum(each.nbytes for each in tree_leaves(args) if self.is_weight(each))
        elif func.namespace != "aten":  # what asks a tensor for its device
            return out
        elif not func.is_view and func.overloadpacket not in IDLE:
            self.work[part, BYTES] += self.moved(tree_leaves((args, kwargs, out)))
        self.work[part, CALLS] += 1
        return out

    def moved(self, tensors: Iterable[Any]) -> int:
        """Bytes of what is read and written, weights apart: of an embedding, a few rows are."""
        found = [each for each in tensors if isinstance(each, torch.Tensor)]
        return sum(each.nbytes for each in found if not self.is_weight(each))

    def is_weight(self, value: Any) -> bool:
        """Whether it is a weight, or a view of one."""
        return isinstance(value, torch.Tensor) and value.untyped_storage()._cdata in self.weights

    def enter(self, part: str, *_: Any) -> None:
        """A module of this part begins."""
        self.parts.append(part)

    def leave(self, *_: Any) -> None:
        """A module has ended."""
        self.parts.pop()

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        """What autograd packs, it keeps as long as what comes of it is alive."""
        self.packed.append(weakref.ref(tensor))
        return tensor

    def fresh(self, tensors: Iterable[Any]) -> float:
        """Bytes of storages that were not counted before."""
        memories = [each.untyped_storage() for each in tensors if isinstance(each, torch.Tensor)]
        new = {each._cdata: each for each in memories if each._cdata not in self.seen}
        self.seen |= new  # which holds them, so that none comes to lie where another was
        return float(sum(each.nbytes() for each in new.values()))

    def kept(self) -> float:
        """Bytes of what was packed, is still kept, and was not counted before."""
        packed, self.packed = [each() for each in self.packed], []
        return self.fresh(packed)

    def block(self, forward: Callable[..., Any], kind: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a block, or give what one alike has given, counted as it was."""
        self.shared += self.kept() + self.fresh(tree_leaves((args[1:], kwargs)))
        key = (kind, tree_map(described, (args, kwargs)).__repr__())
        if key not in self.blocks:
            before = Counter(self.work)
            out = forward(*args, **kwargs)
            self.blocks[key] = out, self.work - before, self.kept()
        else:
            self.work += self.blocks[key][1]
            out = tree_map_only(FakeTensor, lambda each: torch.empty_like(each).requires_grad_(each.requires_grad), self.blocks[key][0])
        self.last_block = self.blocks[key][1]
        if kept := self.blocks[key][2]:
            self.entering += args[0].untyped_storage().nbytes()
            self.in_blocks.append(kept)
        return out

    def bytes_kept(self) -> tuple[float, float, float]:
        """Of all that was counted: of all of it, what is kept with gradient checkpointing, of the block that keeps most."""
        outside = self.shared + self.kept()
        return outside + sum(self.in_blocks), outside + self.entering, max(self.in_blocks)


def width(flops: int, out: Any) -> int:
    """The side, as a power of 2, of a square matrix as large as that with which a product was made: (inner, last of `out`)."""
    made = next(each for each in tree_leaves(out) if isinstance(each, torch.Tensor))
    inner = max(1, flops // max(1, 2 * made.numel()))
    return 2 ** round(math.log2(inner * max(1, made.shape[-1])) / 2)


def is_mask(index: Any) -> bool:
    """Whether an index is a mask with values."""
    return isinstance(index, torch.Tensor) and index.dtype == torch.bool and not isinstance(index, FakeTensor)


def described(value: Any) -> Any:
    """What two inputs of blocks that are alike have in common."""
    if isinstance(value, FakeTensor):
        return value.dtype, tuple(value.shape), value.requires_grad
    return hash(value.reshape(-1).view(torch.uint8).numpy().tobytes()) if isinstance(value, torch.Tensor) else value


def structure(module: nn.Module) -> str:
    """What two modules that compute alike have in common."""
    return repr(module) + str([(each.dtype, tuple(each.shape), each.requires_grad) for each in module.parameters()])
