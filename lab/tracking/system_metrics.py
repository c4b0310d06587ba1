"""What the machine does while arms train: MLflow's own monitors of CPU, memory, disk, network and GPU, beside training, not in it.

MLflow attaches them to a run that lives in its client's process; here a sample is a line of `system.jsonl` in the folder of each run
that is at work on this machine, and is delivered as a curve is.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from lab.errors import DataError
from lab.store import curve_files, runs

EVERY_S = 10.0
"""Seconds between samples; MLflow's own default."""


class SystemMetrics:
    """Samples this machine for those of some runs that are at work on it."""

    def __init__(self, runs_dir: Path) -> None:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        self.runs_dir = runs_dir
        self.monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        with contextlib.suppress(ImportError, RuntimeError):  # no NVIDIA driver, or no package that reads it
            self.monitors.append(GPUMonitor())
        self.measure()  # the CPU's use is that since the last look
        self.last = float("-inf")

    def measure(self) -> dict[str, float]:
        """One sample, by MLflow's names."""
        sample: dict[str, float] = {}
        for monitor in self.monitors:
            monitor.collect_metrics()
            sample |= {f"system/{key}": float(value) for key, value in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        return sample

    def record(self, identities: Sequence[str]) -> None:
        """Append a sample to each of these runs that is at work here, if the last one is old enough."""
        if time.monotonic() - self.last < EVERY_S:
            return
        self.last = time.monotonic()
        here = [run for identity in identities if (run := self._at_work(identity)) is not None]
        sample = self.measure() if here else {}
        for run in here:
            run_dir = runs.folder(self.runs_dir, run.identity)
            seconds = time.time() - datetime.fromisoformat(run.started).timestamp()
            step = sum(1 for _ in curve_files.samples(run_dir))
            curve_files.append_sample(run_dir, {"step": step, "seconds": round(seconds, 3), **sample})

    def _at_work(self, identity: str) -> runs.Run | None:
        try:
            run = runs.load(self.runs_dir, identity)
        except DataError:  # its delivery says so
            return None
        here = run is not None and run.status == runs.RUNNING and run.process.get("host", socket.gethostname()) == socket.gethostname()
        return run if here and runs.is_held(runs.folder(self.runs_dir, identity)) else None
