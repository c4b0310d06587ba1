"""Commands run as a user runs them, with the memory of all their processes watched. Linux only; light."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.bench.figures import BenchError

SAMPLE_S = 0.5
SHARE = 0.02
"""Of one core that watching may take: Linux walks all pages of a process to say what it holds."""


@dataclass(frozen=True)
class Ran:
    """A command that ended well. peak_mb: most memory of its process tree, pages that several share counted once; 2^20 bytes."""

    seconds: float
    peak_mb: float
    output: str


def run(command: Sequence[str], folder: Path, log: Path) -> Ran:
    """Run a command in a folder, its standard error in `log`. Raises `BenchError` if it ends with another code than 0."""
    peaks = [0.0]
    ended = threading.Event()
    start = time.perf_counter()
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=errors, text=True)
        watcher = threading.Thread(target=watch, args=(process.pid, peaks, ended))
        watcher.start()
        try:
            output, _ = process.communicate()
        except BaseException:
            process.kill()
            raise
        finally:
            ended.set()
            watcher.join()
    seconds = time.perf_counter() - start
    if process.returncode:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise BenchError(f"{' '.join(command)} ended with exit code {process.returncode}:\n{tail}")
    return Ran(seconds, max(peaks), output)


def watch(root: int, peaks: list[float], ended: threading.Event) -> None:
    """Note the memory of a process tree until it has ended: every `SAMPLE_S` seconds, less often where that takes more than `SHARE`."""
    pause = SAMPLE_S
    while not ended.wait(pause):
        start = time.thread_time()
        peaks.append(sum(proportional_mb(pid) for pid in tree(root)))
        pause = max(SAMPLE_S, (time.thread_time() - start) / SHARE)


def tree(root: int) -> list[int]:
    """A process and all that descend from it."""
    found = [root]
    for pid in found:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                found += [int(child) for child in children.read_text().split()]
            except OSError:  # it has just ended
                continue
    return found


def proportional_mb(pid: int) -> float:
    """Proportional resident memory of a process: a page that n processes share counts 1/n. 0 if it has just ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 2**10
