"""Every product asked once, by several workers, each request tried until it ends: the one layer of retries there is."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

import tenacity
from tenacity.wait import wait_base

from lab.errors import ConfigError
from lab.host.progress import Report
from lab.llm.client import NO_CONNECTION, Client, Passing
from lab.llm.config import Service
from lab.llm.limits import Interrupted, LimitReached, Meter
from lab.llm.request import Request, Usage
from lab.llm.store import Answer, State, Store

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
"""Of a random wait that doubles, where the server asks for none."""
CONNECTIONS = 3
"""Attempts to connect to a server that has not answered yet."""
REFUSED_AT_ONCE = 10
"""So many failed requests without one answer end the run: it would be the same with all."""


class Waits(wait_base):
    """As long as the server asks for, and a little more that differs between workers; else exponential with full jitter."""

    drawn = tenacity.wait_random_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S)
    apart = tenacity.wait_random(0, FIRST_WAIT_S)

    def __call__(self, retry_state: tenacity.RetryCallState) -> float:
        error = retry_state.outcome.exception() if retry_state.outcome else None
        if isinstance(error, Passing) and error.wait_s is not None:
            return error.wait_s + self.apart(retry_state)
        return self.drawn(retry_state)


@dataclass
class Asker:
    """Asks one request at a time in each of its threads."""

    service: Service
    store: Store
    client: Client
    meter: Meter
    stop: threading.Event
    answered: bool = False
    good: Callable[[Answer], bool] = lambda answer: answer.state is not State.failed
    """Whether an answer that is kept is taken; another is asked for again."""

    def ask(self, request: Request) -> Answer:
        """The answer that is kept, or one that is asked for and then kept. Raises `Interrupted`, `LimitReached` or `ConfigError`."""
        kept = self.store.answer(request.key)
        if kept is not None and self.good(kept):
            return kept
        llm = self.service.llm
        retrying = tenacity.Retrying(
            wait=Waits(), stop=lambda state: self.nobody_there(state) or tenacity.stop_before_delay(llm.give_up_s)(state),
            retry=tenacity.retry_if_exception_type(Passing), sleep=self.sleep, reraise=True,
        )  # fmt: skip
        try:
            return retrying(self.attempt, request)
        except (LimitReached, ConfigError):
            self.stop.set()
            raise
        except Passing as error:
            if error.outcome == NO_CONNECTION and not self.answered:
                raise ConfigError(f"{error} Is the server running?") from None
            answer = Answer(State.failed, "", f"given up after {self.service.seconds('give_up_s')}: {error}")
            self.store.keep(request, answer)
            return answer

    def attempt(self, request: Request) -> Answer:
        """Send it once, within the limits; keep its answer and note what it took."""
        most = request.at_most()
        reserved = self.meter.begin(most)
        number = self.store.begin(request, reserved, reserved.cost(self.service.limits.prices))
        used, outcome, answer = reserved, "error", None
        try:
            reply = self.client.ask(request, reserved)
            used, outcome, answer = reply.used, reply.outcome, reply.answer
            self.answered = self.answered or outcome == "200"
            return answer
        except Passing as error:
            used, outcome = error.used, error.outcome
            if error.wait_s and error.wait_s > self.service.llm.give_up_s:
                patience = self.service.seconds("give_up_s")
                raise LimitReached(f"{self.client.shown()} asks to wait {error.wait_s:.0f} s, longer than {patience}. It says: {error}") from None
            self.meter.hold(error.wait_s or 0.0)
            raise
        except (LimitReached, ConfigError):
            used, outcome = Usage(0, 0), "refused"
            raise
        finally:
            self.store.end(number, outcome, used, used.cost(self.service.limits.prices), request, answer)
            self.meter.end(most, reserved, used)

    def nobody_there(self, state: tenacity.RetryCallState) -> bool:
        """Whether no server listens, as far as a few attempts tell; one that has answered before may come back."""
        error = state.outcome.exception() if state.outcome else None
        return isinstance(error, Passing) and error.outcome == NO_CONNECTION and not self.answered and state.attempt_number >= CONNECTIONS

    def sleep(self, seconds: float) -> None:
        """Wait, or end where the run is to end."""
        if self.stop.wait(seconds):
            raise Interrupted


@dataclass
class Progress:
    """What stands beside the bar."""

    meter: Meter
    service: Service
    began: float = field(default_factory=time.monotonic)
    states: Counter[State] = field(default_factory=Counter)

    def note(self, done: int) -> str:
        """Rate, money, what is left of it, bad answers."""
        rate = f"{60 * done / max(time.monotonic() - self.began, 1e-3):.0f}/min"
        budget, priced = self.service.limits.budget, self.service.limits.prices.input_per_million is not None
        spent = f"{self.meter.cost:.4g} spent" if priced else f"{self.meter.tokens:,} tokens"
        left = f"{max(0.0, budget - self.meter.cost):.4g} left" if budget is not None else ""
        bad = ", ".join(f"{number} {state.name}" for state, number in self.states.items() if state is not State.answered)
        return ", ".join(filter(None, (rate, spent, left, bad)))


def ask_all(
    requests: Sequence[Callable[[], Request]], asker: Asker, report: Report, stage: str
) -> tuple[dict[int, Answer], Exception | None]:
    """Answers by the place of their request, which is made when its turn comes; and what ended the run before its end, if anything did.

    On SIGTERM, a limit of time or an interrupt nothing new is begun, and what is in flight is waited for and kept.
    """
    answers: dict[int, Answer] = {}
    progress = Progress(asker.meter, asker.service)
    fatal: Exception | None = None
    queue = iter(range(len(requests)))
    waiting: dict[Future[Answer], int] = {}
    with ThreadPoolExecutor(asker.service.llm.workers) as pool:
        try:
            while True:
                while fatal is None and len(waiting) < 2 * asker.service.llm.workers and (place := next(queue, None)) is not None:
                    waiting[pool.submit(lambda at: asker.ask(requests[at]()), place)] = place
                if not waiting:
                    break
                for future in wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED).done:
                    place = waiting.pop(future)
                    try:
                        answers[place] = future.result()
                        progress.states[answers[place].state] += 1
                    except Exception as error:
                        fatal = fatal if fatal and not isinstance(fatal, Interrupted) else error
                        asker.stop.set()
                fatal = fatal or refused(progress.states, answers, asker)
                report(stage, len(answers), len(requests), progress.note(len(answers)))
        finally:
            if waiting:
                asker.stop.set()
    return answers, fatal


def refused(states: Counter[State], answers: dict[int, Answer], asker: Asker) -> Exception | None:
    """An error where the first requests all failed: the others would too."""
    if states[State.failed] < REFUSED_AT_ONCE or asker.answered:
        return None
    asker.stop.set()
    first = next(answer.detail for answer in answers.values() if answer.state is State.failed)
    server = f"{asker.service.llm_keys}.base_url={asker.client.shown()}"
    return ConfigError(f"{server}: the first {states[State.failed]} requests all failed, none was answered: {first}")
