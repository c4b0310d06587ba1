"""Arms in processes of their own, one working at a time, so that a drift of the machine falls on all alike."""

from __future__ import annotations

import multiprocessing
import resource
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

from lab.bench.results import WARM_UP, BenchError, Round
from lab.host.progress import Report, silent


class Arm(Protocol):
    """What is measured; must survive pickling."""

    def open(self) -> Callable[[int], Round]:
        """Load everything; return what takes so many timed steps after a fresh start."""


@dataclass
class Measured:
    """All rounds of one arm. cpu_s: processor time a step, children's included; peak_mb: resident memory, 2^20 bytes."""

    rounds: list[Round]
    cpu_s: float
    peak_mb: float

    @property
    def seconds(self) -> list[float]:
        """Of every timed step."""
        return [one for each in self.rounds for one in each.seconds]


def cpu_seconds() -> float:
    """Processor time of this process and of children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def serve(connection: Connection, arm: Arm) -> None:
    """An arm's process: open, then a round for every number of steps that arrives; for None its peak memory."""
    multiprocessing.set_start_method("fork", force=True)  # of a loader's workers, as in any process that was not spawned
    try:
        act = arm.open()
        connection.send(None)
        while (steps := connection.recv()) is not None:
            before = cpu_seconds()
            connection.send((act(steps), (cpu_seconds() - before) / (WARM_UP + steps)))
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
        self.receive()

    def receive(self) -> Any:
        """What the arm sends next. Raises `BenchError` if it failed or is gone."""
        try:
            message = self.connection.recv()
        except EOFError:
            self.process.join()
            raise BenchError(f"an arm of the comparison is gone (exit code {self.process.exitcode}).") from None
        if isinstance(message, BenchError):
            raise message
        return message

    def ask(self, steps: int | None) -> Any:
        """A round and its processor time a step, or with None the peak memory, after which the arm ends."""
        self.connection.send(steps)
        return self.receive()


def interleave(arms: dict[str, Arm], rounds: int, steps: int, report: Report = silent) -> dict[str, Measured]:
    """Open every arm, then let each take a round in turn, `rounds` times."""
    workers: dict[str, Worker] = {}
    taken: dict[str, list[tuple[Round, float]]] = {name: [] for name in arms}
    try:
        for name, arm in arms.items():
            workers[name] = Worker(arm)
            report(f"opening {len(arms)} arms", len(workers), len(arms), name)
        for done, name in enumerate(list(arms) * rounds, 1):
            taken[name].append(workers[name].ask(steps))
            report(f"rounds of {steps} steps of {', '.join(arms)}", done, rounds * len(arms), "")
        return {
            name: Measured([one for one, _ in both], sum(cpu for _, cpu in both) / rounds, workers[name].ask(None))
            for name, both in taken.items()
        }
    finally:
        for worker in workers.values():
            worker.process.terminate()
            worker.process.join()
