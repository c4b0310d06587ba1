"""An arm of a comparison that does nothing but answer, in a module that a spawned process imports at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lab.bench.results import Round


@dataclass(frozen=True)
class Sleeper:
    """Takes no time; fails in its first round if it is told to."""

    fails: bool = False

    def open(self) -> Callable[[int], Round]:
        """What takes a round."""

        def act(steps: int) -> Round:
            if self.fails:
                raise RuntimeError("boom")
            return Round([0.0] * steps, [1.0] * steps)

        return act
