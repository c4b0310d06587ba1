"""Processes that run rows. One that dies is a verdict on its row, and is replaced."""

from __future__ import annotations

import itertools
import multiprocessing
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from grid.commands import FAILED, Verdict, run
from grid.dimensions import Row

LIMIT_S = 300.0
"""Longest that a row may take."""


def run_all(rows: Sequence[Row], root: Path, jobs: int, ended: Callable[[int, Verdict], None]) -> list[Verdict]:
    """Run rows in `jobs` processes; `ended` is called as each ends. Verdicts come in the order of the rows."""
    waiting: queue.SimpleQueue[tuple[int, Row] | None] = queue.SimpleQueue()
    for item in itertools.chain(enumerate(rows), itertools.repeat(None, jobs)):
        waiting.put(item)
    verdicts: dict[int, Verdict] = {}
    lock = threading.Lock()

    def work() -> None:
        pool = fresh()
        while (item := waiting.get()) is not None:
            number, row = item
            try:
                verdict = pool.submit(run, row, root, root / "rows" / str(number)).result(timeout=LIMIT_S)
            except (BrokenProcessPool, TimeoutError) as error:
                verdict = Verdict(row, FAILED, f"{type(error).__name__}: the process that ran it died or took {LIMIT_S:.0f} s")
                end(pool)
                pool = fresh()
            with lock:
                verdicts[number] = verdict
                ended(number, verdict)
        pool.shutdown()

    threads = [threading.Thread(target=work) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [verdicts[number] for number in range(len(rows))]


def fresh() -> ProcessPoolExecutor:
    """One process, which imports what it needs with its first row."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def end(pool: ProcessPoolExecutor) -> None:
    """Kill a pool's process, which may hang."""
    for process in list((pool._processes or {}).values()):
        process.kill()
    pool.shutdown(wait=False, cancel_futures=True)
