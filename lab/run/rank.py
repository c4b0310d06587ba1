"""python -m lab.run.rank: one rank beside rank 0 of an arm on several devices; started by `lab.run.ranks`, never by hand."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from lab import plugins


def train(told: dict[str, Any], rank_0: int) -> None:
    """Build what rank 0 has built and train with it; what comes of it is rank 0's to keep. rank_0: a pipe to it."""
    from lab.freezing import from_dict

    plugins.load(told["config"]["plugins"])  # of the command that started this process
    x = from_dict(told["config"])

    import torch

    from lab import run as running
    from lab.evaluation.watching import watchers
    from lab.host.stopping import stoppable
    from lab.run.assembly import attached
    from lab.run.ranks import READY
    from lab.training import devices, loop

    if devices.on_gpu(x.trainer):
        torch.cuda.set_device(devices.rank())
    with stoppable():
        prepared = running.prepare(x)
        encoded = prepared.encoded(x)
        with attached(x, prepared.vlm) as vlm:
            os.write(rank_0, f"{READY}\n".encode())
            loop.train(x, vlm, encoded, Path(told["run_dir"]), told["started"], told["alike"], watchers=watchers(encoded["minival"], x.evaluation))


def end_with_rank_0() -> None:
    """Wait for the end of standard input, which rank 0 holds open, and leave: nothing is to be saved."""
    sys.stdin.read()
    os._exit(1)


def main() -> None:
    """The process."""
    from lab.cli import set_up_logging

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 is asked, and decides
    rank_0 = os.dup(1)
    os.dup2(2, 1)  # what is printed goes to the log
    set_up_logging()
    told = json.loads(sys.stdin.readline())
    threading.Thread(target=end_with_rank_0, daemon=True).start()
    train(told, rank_0)


if __name__ == "__main__":
    main()
