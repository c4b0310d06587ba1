"""How long a step, an answer and a whole training take, from counted work (`lab.costs.counting`) and a device's rates: a roofline.

Of a forward over B examples, by part of the model:

    products    B FLOPs at the rate of a matrix of their width, or of attention; or the part's weights once through memory if that is longer
    the rest    B bytes at the device's bandwidth
    calls       as many for one example as for all; on a GPU they run beside the work, and the longer of the two counts

A training step passes through a part as often as `lab.costs.planning` says. An interval, not a point: the rates are taken at the shares
of `lab.costs.machines`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from lab.costs.machines import Machine
from lab.costs.operations import BYTES, CALLS, WEIGHTS, Work

UPDATE_BYTES, UPDATE_CALLS = 48.0, 12
"""Of a number that trains: weight, gradient and two moments in float32, read and written, and read once for the norm; of a tensor."""
DECODED = ("llm", "head", "adapters", "other")
"""Parts that one further token passes through."""


@dataclass(frozen=True)
class Interval:
    """Seconds, or another number that follows from them: at the best, as expected, at the worst."""

    low: float
    expected: float
    high: float

    def __add__(self, other: Interval) -> Interval:
        return Interval(self.low + other.low, self.expected + other.expected, self.high + other.high)

    def times(self, factor: float) -> Interval:
        """Every end times a factor."""
        return Interval(factor * self.low, factor * self.expected, factor * self.high)

    def facts(self) -> dict[str, float]:
        """As plain values."""
        return {"low": self.low, "expected": self.expected, "high": self.high}


NOTHING = Interval(0.0, 0.0, 0.0)


def forward(work: Work, machine: Machine, passes: Mapping[str, float], batch: float = 1) -> Interval:
    """Seconds of a forward, or of a step, over a batch of examples. passes: how often each part is passed through; "llm" stands in for others."""
    products = rest = calls = 0.0
    for part in {part for part, _ in work}:
        often = passes.get(part, passes["llm"])
        multiplied = sum(number / machine.rate(what) for (of, what), number in work.items() if of == part and isinstance(what, int))
        read = work[part, WEIGHTS] / machine.bandwidth
        products += often * batch * multiplied if batch * multiplied >= read else 0.0
        rest += often * (batch * work[part, BYTES] / machine.bandwidth + (read if batch * multiplied < read else 0.0))
        calls += often * work[part, CALLS] * machine.call
    return within(products, rest, calls, machine)


def token(work: Work, machine: Machine, positions: int, batch: int = 1) -> Interval:
    """Seconds of one further token behind a prompt of so many positions: as many calls and weights, over one position."""
    whole = (CALLS, WEIGHTS)
    one = {(part, what): number / (1 if what in whole else positions) for (part, what), number in work.items() if part in DECODED}
    return forward(Counter(one), machine, {"llm": 1}, batch)


def update(trainable: float, tensors: int, machine: Machine) -> Interval:
    """Seconds of an optimizer step with its clipping over so many numbers in so many tensors."""
    return within(0.0, UPDATE_BYTES * trainable / machine.bandwidth, UPDATE_CALLS * tensors * machine.call, machine)


def within(products: float, traffic: float, calls: float, machine: Machine) -> Interval:
    """Seconds of products, of bytes that pass through memory and of calls at a machine's full rates, at the shares that are planned with."""

    def at(of_products: float, of_traffic: float) -> float:
        work, waits = products / of_products + traffic / of_traffic, calls * machine.of_traffic.likely / of_traffic
        return max(work, waits) if machine.overlaps else work + waits / machine.of_traffic.likely

    ends = zip(vars(machine.of_products).values(), vars(machine.of_traffic).values(), strict=True)
    high, expected, low = (at(*shares) for shares in ends)
    return Interval(low, expected, high)


def duration(seconds: Interval) -> str:
    """An interval in the unit that suits it."""
    unit, name = next(((unit, name) for unit, name in ((3600.0, "h"), (60.0, "min")) if seconds.expected >= 2 * unit), (1.0, "s"))
    return f"{short(seconds.expected / unit)} {name} ({short(seconds.low / unit)} to {short(seconds.high / unit)})"


def short(number: float) -> str:
    """Three digits, thousands apart: `0.0016`, `12,346`."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
