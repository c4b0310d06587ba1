"""The processes that train one arm beside this one, where `trainer.devices` is more than one. They train and write nothing.

Each is started as `python -m lab.run.rank`, gets the experiment on standard input, which stays open as long as this process
lives, says on standard output when it is ready to meet, and prints to `log-rank<N>.txt` of the run folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.config import Experiment, as_dict
from lab.errors import ModelError, TrainingError

READY = "ready"
PATIENCE_S = 60.0
"""How long a process may take to end after the training has."""


@contextlib.contextmanager
def launch_ranks(x: Experiment, run_dir: Path, started: float, alike: dict[str, Any]) -> Iterator[None]:
    """Within, the other ranks of an arm are there, and this process is rank 0; nothing at all with one device.

    Raises `ModelError` where a rank does not get ready; that the devices are there was seen to before (`devices.require`).
    """
    import torch

    if x.trainer.devices == 1:
        yield
        return
    told = json.dumps({"config": as_dict(x), "run_dir": str(run_dir), "started": started, "alike": alike})
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(x.trainer.devices)}
    with variables({**meeting, "LOCAL_RANK": "0"}):
        others: list[subprocess.Popen[str]] = []
        try:
            for number in range(1, x.trainer.devices):
                others.append(start(number, told, meeting, log_path(run_dir, number)))
            for number, process in enumerate(others, 1):
                assert process.stdout is not None
                if process.stdout.readline().strip() != READY:
                    raise ModelError(f"trainer.devices: rank {number} did not get ready (log: {log_path(run_dir, number)}).")
            try:
                yield
            except RuntimeError as error:
                raise_for_dead(others, run_dir, error)
            for process in others:
                process.wait(PATIENCE_S)
        finally:
            for process in others:
                process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    assert pipe is not None
                    pipe.close()
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()


def raise_for_dead(others: list[subprocess.Popen[str]], run_dir: Path, error: RuntimeError) -> None:
    """Raise a `TrainingError` if another rank has ended, which is why this one could not go on; else the error itself."""
    for number, process in enumerate(others, 1):
        with contextlib.suppress(subprocess.TimeoutExpired):
            if process.wait(1.0) != 0:
                raise TrainingError(
                    f"trainer.devices: rank {number} ended with exit code {process.returncode} (log: {log_path(run_dir, number)}). "
                    "The same command goes on from the last checkpoint."
                ) from error
    raise error


def start(number: int, told: str, meeting: dict[str, str], path: Path) -> subprocess.Popen[str]:
    """Start one rank and tell it what to train."""
    environment = {**os.environ, **meeting, "LOCAL_RANK": str(number)}
    command = [sys.executable, "-m", "lab.run.rank"]
    with path.open("a") as out:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out, text=True, env=environment)
    assert process.stdin is not None
    process.stdin.write(told + "\n")
    process.stdin.flush()
    return process


def log_path(run_dir: Path, number: int) -> Path:
    """Where a rank prints."""
    return run_dir / f"log-rank{number}.txt"


def free_port() -> int:
    """A TCP port of this machine that nobody uses."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]


@contextlib.contextmanager
def variables(values: dict[str, str]) -> Iterator[None]:
    """Within, the environment has these variables too."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
