"""After a few answers: what all of them will take, with an interval."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from lab.curation.config import Curation
from lab.llm.request import Usage

PICTURES = 20
"""That are asked first; their answers are kept."""
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """Of what is still to be spent: mean and the ends of a 95 % prediction interval; without a spread to learn from both are the mean."""

    mean: float
    low: float
    high: float

    @classmethod
    def of_sum(cls, values: Sequence[float], number: int) -> Estimate:
        """The sum of `number` further values like these: t interval, mean and spread being of the sample."""
        mean = statistics.fmean(values) * number
        if len(values) < 2 or number == 0:
            return cls(mean, mean, mean)
        spread = statistics.stdev(values) * math.sqrt(number + number**2 / len(values))
        half = float(stats.t.ppf(0.5 + LEVEL / 2, len(values) - 1)) * spread
        return cls(mean, max(0.0, mean - half), mean + half)

    def told(self, form: str) -> str:
        """`1,200 (1,100 to 1,300)`."""
        return f"{self.mean:{form}} ({self.low:{form}} to {self.high:{form}})"


def lines(usages: Sequence[Usage], attempts: Sequence[int], remaining: int, spent: float, config: Curation) -> list[str]:
    """The preview. usages, attempts: tokens and number of attempts of each picture that was asked. remaining: products still to be asked."""
    prices = config.limits.prices
    calls = Estimate.of_sum(attempts, remaining)
    rows = [("calls", calls.told(",.0f"))]
    for name, counted in (("tokens in", [one.input for one in usages]), ("tokens out", [one.output for one in usages])):
        rows.append((name, Estimate.of_sum(counted, remaining).told(",.0f")))
    if prices.input_per_million is None:
        rows.append(("money", "not known: give limits.prices.input_per_million and limits.prices.output_per_million"))
    else:
        money = Estimate.of_sum([one.cost(prices) for one in usages], remaining)
        rows.append(("money", f"{money.told('.4f')} after {spent:.4f} so far"))
        if config.limits.budget is not None and spent + money.high > config.limits.budget:
            rows.append(("", f"limits.budget={config.limits.budget:g} may stop it before the end; the same command goes on with a higher one"))
    head = f"preview: {len(usages)} pictures are asked; the other {remaining:,} will take (95 % interval, before retries in bad hours):"
    return [head, *(f"  {name:<12}{told}" for name, told in rows)]
