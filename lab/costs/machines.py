"""How fast devices are: a few GPUs by their makers' data sheets, this machine by a look of less than two seconds.

A data sheet's rates are reached by nothing that trains, so a plan takes stated shares of them (`PRODUCTS`, `TRAFFIC`). Together they come
to the .26 to .31 of all FLOP/s that careful measurements of LoRA in bfloat16 report (PEFT's method comparison on an L40S, 3B; a third
party's on a Hopper, 8B), as what is no product takes its time too. No GPU was at hand to hold them to.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.costs.operations import ATTENTION
from lab.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import torch

HERE = "here"


@dataclass(frozen=True)
class Sheet:
    """Of a data sheet: FLOP/s of dense products by dtype, bytes/s and bytes of memory. Of bfloat16 on a T4, which emulates it, float32's."""

    float32: float
    float16: float
    bfloat16: float
    bandwidth: float
    memory: float


SHEETS = {
    "h200": Sheet(67e12, 990e12, 990e12, 4.8e12, 141e9),
    "h100": Sheet(67e12, 990e12, 990e12, 3.35e12, 80e9),
    "a100": Sheet(19.5e12, 312e12, 312e12, 2.04e12, 80e9),
    "l40s": Sheet(91.6e12, 362e12, 362e12, 0.864e12, 48e9),
    "4090": Sheet(82.6e12, 165e12, 165e12, 1.008e12, 24e9),
    "t4": Sheet(8.1e12, 65e12, 8.1e12, 0.32e12, 16e9),
}
"""Dense, without sparsity; float32 without TF32, as PyTorch computes unless told."""
ALSO = {"rtx4090": "4090"}
"""Further names."""


@dataclass(frozen=True)
class Efficiency:
    """The share of a device's rates that a training reaches, for its slowest, likeliest and fastest plan."""

    low: float
    likely: float
    high: float


PRODUCTS, TRAFFIC = Efficiency(0.3, 0.55, 0.75), Efficiency(0.4, 0.7, 0.9)
"""Of a data sheet's FLOP/s, and of its bytes/s."""
LOOKED, MOVED = Efficiency(0.55, 0.9, 1.2), Efficiency(0.4, 0.65, 1.0)
"""Of rates that were seen here, of products and of bytes, through operations like a model's own."""
PYTHON = 4.0
"""How often the time of a CPU's operation by itself goes by until a model's Python asks for the next (`python tests/plans.py`)."""
LAUNCH = 5e-6
"""Seconds that a GPU's host takes for an operation, which a plan holds against the work of the device itself."""
WIDTHS = (32, 64, 128, 256, 512, 1024, 2048)
"""Of the matrices that are multiplied here."""
ROWS, FEW, WIDE = 1024, 256, 1024
"""Of what is multiplied with them: with few a product of a wide matrix is slower than in a step, which has thousands. From which width on."""
LOOKS, LOOK_S = 3, 0.006
"""How often each rate is looked at, all in turn, and for how many seconds at a time."""
ATTENDED = (4, 4, 96, 64)
"""Queries of the attention that is looked at: batch, heads, tokens, width of a head."""


@dataclass(frozen=True)
class Machine:
    """Rates to plan with. products: FLOP/s by the width of a matrix, and by `ATTENTION`; bandwidth: bytes/s; call: seconds of an operation.

    overlaps: calls run beside the work, as on a GPU. of_products, of_traffic: the shares of these rates that are planned with.
    """

    name: str
    products: dict[int, float]
    bandwidth: float
    call: float
    overlaps: bool
    of_products: Efficiency
    of_traffic: Efficiency

    def rate(self, width: int) -> float:
        """FLOP/s of a product with a matrix of about so many rows and columns, or of attention."""
        if width == ATTENTION:
            return self.products[ATTENTION]
        return self.products[min(self.products.keys() - {ATTENTION}, key=lambda known: abs(math.log2(known / width)))]

    def describe(self) -> str:
        """The rates in one line."""
        ends = sorted(self.products.keys() - {ATTENTION})
        rates = " to ".join(f"{self.products[end] / 1e9:,.0f}" for end in dict.fromkeys((ends[0], ends[-1])))
        how = "measured just now" if self.name == HERE else "by the data sheet"
        flops, traffic = (f"{one.likely:g} ({one.high:g} to {one.low:g})" for one in (self.of_products, self.of_traffic))
        shares = flops if flops == traffic else f"{flops} and {traffic}"
        return (
            f"{self.name}: {rates} GFLOP/s, {self.bandwidth / 1e9:,.0f} GB/s, {1e6 * self.call:.1f} us an operation, {how}; planned with "
            f"{shares} of these rates"
        )


def sheet(name: str) -> Sheet:
    """Of a device by name. Raises `ConfigError`."""
    known = ALSO.get(name, name)
    if known not in SHEETS:
        names = (HERE, *SHEETS)
        raise ConfigError(f"--device {name}: there is no such device.{did_you_mean(name, names)} Legal: {', '.join(names)}.")
    return SHEETS[known]


def of_sheet(name: str, dtype: str) -> Machine:
    """A GPU as its maker describes it, at a dtype of `model.dtype`."""
    known = sheet(name)
    return Machine(name, dict.fromkeys((ATTENTION, WIDTHS[-1]), getattr(known, dtype)), known.bandwidth, LAUNCH, True, PRODUCTS, TRAFFIC)


@functools.cache
def here(dtype: str, accelerator: str = "auto", threads: int = 1) -> Machine:
    """This machine at a dtype of `model.dtype`: its GPU if `trainer.accelerator` takes one, else so many threads. Looked at once a process."""
    import torch

    device = torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    kind, before = getattr(torch, dtype), torch.get_num_threads()
    made, out = (torch.full((ROWS, WIDTHS[-1]), 0.5, dtype=kind, device=device) for _ in range(2))

    numbers = {width: ROWS if width >= WIDE else FEW for width in WIDTHS}

    def product(width: int) -> Callable[[], object]:
        number = numbers[width]
        rows, matrix, found = made[:number, :width].contiguous(), made[:1, :width].repeat(width, 1), out[:number, :width].contiguous()
        return lambda: torch.mm(rows, matrix, out=found)

    small, ones, others = torch.zeros(8, device=device), made[:FEW], out[:FEW]
    acts: list[Callable[[], object]] = [lambda: torch.mul(ones, ones, out=others), lambda: torch.sigmoid(ones, out=others), lambda: small + small]
    torch.set_num_threads(threads)
    try:
        one, other, call, attended, *multiplied = quickest([*acts, attention(kind, device), *map(product, WIDTHS)], device)
    finally:
        torch.set_num_threads(before)
    products = {width: 2 * numbers[width] * width**2 / taken for width, taken in zip(WIDTHS, multiplied, strict=True)}
    products[ATTENTION] = 2 * 2 * 2 * math.prod(ATTENDED) * ATTENDED[2] / attended  # a backward is counted as a forward
    on_gpu = device.type == "cuda"
    return Machine(HERE, products, 5 * ones.nbytes / (one + other), call * (1 if on_gpu else PYTHON), on_gpu, LOOKED, MOVED)


def attention(kind: torch.dtype, device: torch.device) -> Callable[[], object]:
    """A forward of attention with its backward."""
    import torch

    q, k, v = (torch.full(ATTENDED, 0.1, dtype=kind, device=device, requires_grad=True) for _ in range(3))
    mask = torch.ones(ATTENDED[0], 1, ATTENDED[2], ATTENDED[2], dtype=torch.bool, device=device).tril()
    return lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).sum().backward()


def quickest(acts: Sequence[Callable[[], object]], device: torch.device) -> list[float]:
    """Seconds of each act at its quickest, of looks that come in turn: whatever disturbs one only adds, and may last for a while."""
    import torch

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    found = [math.inf] * len(acts)
    for act in acts:
        act()
    for _ in range(LOOKS):
        for i, act in enumerate(acts):
            end = now() + LOOK_S
            while True:
                start = now()
                act()
                found[i] = min(found[i], now() - start)
                if now() >= end:
                    break
    return found
