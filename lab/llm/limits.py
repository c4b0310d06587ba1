"""What may still be used: a request starts only where no limit could be passed, whatever it turns out to cost. Every attempt counts."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import takewhile

from lab.host.redaction import without_secrets
from lab.llm.config import Service
from lab.llm.request import Usage
from lab.llm.store import Store

MINUTE_S, DAY_S = 60.0, 86400.0
MARGIN_S = 0.5
"""Added to a minute: two requests do not travel for the same time."""


class LimitReached(Exception):
    """A limit stops the run; its text is the sentence for the person."""


class QuotaUsedUp(LimitReached):
    """The provider's limit of money, not one of ours."""


AT_A_LIMIT, INCOMPLETE = 3, 1
"""Exit codes: a limit, ours or the provider's, has stopped the command; it has asked for everything and lacks some answers."""


def exit_code(ended: Exception | None, lacking: int) -> int:
    """How a command ends whose results are written. ended: what stopped the asking early. lacking: answers that are not there.

    Raises what stopped it, where that was no limit.
    """
    if isinstance(ended, LimitReached):
        print(f"stopped: {without_secrets(str(ended))}", file=sys.stderr)
        return AT_A_LIMIT
    if ended is not None:
        raise ended
    return INCOMPLETE if lacking else 0


class Interrupted(Exception):
    """The run is to end; nothing new is begun."""


class Meter:
    """Lets requests begin, from several threads. now: Unix time; wait(seconds): sleeps, or returns earlier where the run ends."""

    def __init__(self, service: Service, store: Store, stop: threading.Event, now: Callable[[], float] = time.time) -> None:
        self.limits, self.section, self.stop, self.now = service.limits, service.limits_keys, stop, now
        self.changed = threading.Condition()
        self.recent = deque(store.began_since(now() - DAY_S))
        before = store.totals()
        self.attempts, self.tokens, self.cost = before.attempts, before.tokens, before.cost
        self.in_flight = 0
        self.not_before = 0.0
        self.measured = False
        """Whether the server has counted a request: before, one goes alone where tokens or money are limited, for it may count far more."""
        self.excess = 1.0
        """By what factor the tokens of an answered request passed what had been reserved, at most."""

    def begin(self, most: Usage) -> Usage:
        """Wait until a request may begin; return what is reserved for it. Raises `LimitReached` or `Interrupted`."""
        with self.changed:
            while True:
                if self.stop.is_set():
                    raise Interrupted
                reserved = Usage(round(most.input * self.excess), most.output)
                pause = self.pause(reserved)
                if pause <= 0:
                    break
                self.changed.wait(min(pause, 1.0))
            self.in_flight += 1
            self.attempts += 1
            self.tokens += reserved.input + reserved.output
            self.cost += reserved.cost(self.limits.prices)
            self.recent.append((self.now(), reserved.input + reserved.output))
            return reserved

    def end(self, most: Usage, reserved: Usage, used: Usage) -> None:
        """A request that began with this reservation has used so much."""
        with self.changed:
            self.in_flight -= 1
            self.measured = self.measured or (used.input > 0 and used != reserved)
            self.tokens += used.input + used.output - reserved.input - reserved.output
            self.cost += used.cost(self.limits.prices) - reserved.cost(self.limits.prices)
            self.excess = max(self.excess, 1.1 * used.input / max(1, most.input) if used.input > reserved.input else 1.0)
            self.changed.notify_all()

    def hold(self, seconds: float) -> None:
        """Begin nothing for so long: the server has asked for it, and it means all workers."""
        with self.changed:
            self.not_before = max(self.not_before, self.now() + seconds)

    def pause(self, reserved: Usage) -> float:
        """Seconds until a request may begin, as far as is known now; 0 or less: at once. Raises `LimitReached`."""
        limits, now = self.limits, self.now()
        while self.recent and self.recent[0][0] <= now - DAY_S:
            self.recent.popleft()
        if limits.requests_per_day is not None and len(self.recent) >= limits.requests_per_day:
            raise LimitReached(
                f"{self.section}.requests_per_day={limits.requests_per_day}: {len(self.recent)} requests were made within 24 hours. "
                f"The same command goes on from {time.strftime('%H:%M', time.localtime(self.recent[0][0] + DAY_S))}, or with a higher limit."
            )
        tokens, cost = reserved.input + reserved.output, reserved.cost(self.limits.prices)
        full = limits.tokens is not None and self.tokens + tokens > limits.tokens
        dear = limits.budget is not None and self.cost + cost > limits.budget
        unmeasured = not self.measured and not (limits.tokens is None and limits.budget is None)
        if (full or dear or unmeasured) and self.in_flight:
            return 1.0  # what ends gives back what it had reserved too much
        if full:
            raise LimitReached(
                f"{self.section}.tokens={limits.tokens}: {self.tokens} are used, and the next request may take {tokens}. Give the same command a "
                "higher limit."
            )
        if dear:
            raise LimitReached(
                f"{self.section}.budget={limits.budget:g}: {self.cost:.6g} is spent, and the next request may cost {cost:.6g}. Give the same "
                "command a higher limit."
            )
        return max(self.not_before - now, self.until_minute(now, tokens))

    def until_minute(self, now: float, tokens: int) -> float:
        """Seconds until the limits of a minute let a request of so many tokens begin."""
        limits, window = self.limits, MINUTE_S + MARGIN_S
        minute = list(takewhile(lambda each: each[0] > now - window, reversed(self.recent)))
        if limits.requests_per_minute is not None and len(minute) >= limits.requests_per_minute:
            return minute[limits.requests_per_minute - 1][0] + window - now
        if limits.tokens_per_minute is not None and minute and sum(spent for _, spent in minute) + tokens > limits.tokens_per_minute:
            return minute[-1][0] + window - now
        return 0.0
