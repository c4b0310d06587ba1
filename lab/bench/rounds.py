"""Arms in processes of their own that take turns: only one works at a time, so a drift of the machine falls on all alike."""

from __future__ import annotations

import multiprocessing
import os
import resource
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Protocol

from lab.bench.figures import BenchError
from lab.host.progress import Report, silent

WARM_UP = 2
"""First steps of a round that are not timed: allocators, caches and lazily built state."""


@dataclass
class Round:
    """Steps of one arm in a row. seconds: of each step after the warm-up, from the end of one to the end of the next.

    losses: of every step, warm-up included. cpu_s: processor time a step, of this process and the children it has ended.
    parts: seconds of each part of a step, a list each, where they were taken apart.
    """

    seconds: list[float]
    losses: list[float]
    cpu_s: float = 0.0
    parts: dict[str, list[float]] = field(default_factory=dict)


class Arm(Protocol):
    """What is measured; must survive pickling."""

    def open(self) -> Callable[[int], Round]:
        """Load everything; return what takes so many timed steps after a fresh start."""


@dataclass
class Taken:
    """All rounds of one arm, and the peak of its process's resident memory in 2^20 bytes."""

    rounds: list[Round]
    peak_mb: float = 0.0

    @property
    def seconds(self) -> list[float]:
        """Of every timed step."""
        return [one for each in self.rounds for one in each.seconds]

    @property
    def cpu_s(self) -> float:
        """Processor time a step, mean over the rounds."""
        return sum(each.cpu_s for each in self.rounds) / len(self.rounds)


def cpu_seconds() -> float:
    """Processor time of this process and of children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def differences(ends: Sequence[float]) -> list[float]:
    """Seconds of each step after the warm-up, from the times at which steps end."""
    return [after - before for before, after in zip(ends[WARM_UP - 1 :], ends[WARM_UP:], strict=False)]


def quiet_environment(threads: int) -> None:
    """What a process is told before it imports anything heavy; children inherit it."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def serve(connection: Connection, arm: Arm) -> None:
    """An arm's process: open, then a round for every number of steps that arrives, until None does."""
    multiprocessing.set_start_method("fork", force=True)  # of a loader's workers, as in any process that was not spawned
    try:
        act = arm.open()
        connection.send(None)
        while (steps := connection.recv()) is not None:
            connection.send(act(steps))
        import torch

        from lab.evaluation.latency import peak_memory_mb

        connection.send(peak_memory_mb(torch.device("cpu")))
    except Exception:
        connection.send(BenchError(f"an arm of the comparison failed:\n{traceback.format_exc()}"))


class Worker:
    """One arm's process, seen from the one that asks."""

    def __init__(self, arm: Arm) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, arm))
        self.process.start()
        theirs.close()
        self.answer()

    def answer(self) -> object:
        """What the arm sends next. Raises `BenchError` if it failed or is gone."""
        try:
            given = self.connection.recv()
        except EOFError:
            self.process.join()
            raise BenchError(f"an arm of the comparison is gone (exit code {self.process.exitcode}).") from None
        if isinstance(given, BenchError):
            raise given
        return given

    def ask(self, steps: int | None) -> object:
        """Have a round taken, or with None end the arm and get its peak memory."""
        self.connection.send(steps)
        return self.answer()

    def close(self) -> None:
        """End the process, whatever it does."""
        self.process.terminate()
        self.process.join()


def take_turns(arms: dict[str, Arm], rounds: int, steps: int, report: Report = silent) -> dict[str, Taken]:
    """Open every arm, then let each take a round in turn, `rounds` times."""
    workers: dict[str, Worker] = {}
    taken: dict[str, Taken] = {name: Taken([]) for name in arms}
    try:
        for name, arm in arms.items():
            report(f"opening {len(arms)} arms", len(workers), len(arms), name)
            workers[name] = Worker(arm)
        report(f"opening {len(arms)} arms", len(arms), len(arms), "")
        stage = f"rounds of {steps} steps of {', '.join(arms)}"
        for done in range(rounds * len(arms)):
            name = list(arms)[done % len(arms)]
            given = workers[name].ask(steps)
            assert isinstance(given, Round)
            taken[name].rounds.append(given)
            report(stage, done + 1, rounds * len(arms), "")
        for name, worker in workers.items():
            peak = worker.ask(None)
            assert isinstance(peak, float)
            taken[name].peak_mb = peak
    finally:
        for worker in workers.values():
            worker.close()
    return taken
