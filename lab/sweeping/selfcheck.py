"""Is an arm over the shared base the same experiment as that arm alone? Asked of the first steps, and the answer is printed."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from lab.config import Experiment
from lab.host.forks import FORK, die_with

if TYPE_CHECKING:
    import torch

    from lab.run import Prepared

log = logging.getLogger(__name__)

STEPS = 3


def shorten(x: Experiment) -> Experiment:
    """The experiment cut to its first steps."""
    looks = {"val_every": None, "patience": None, "restore_best": False}
    ends = {"max_steps": STEPS, "max_epochs": None, "max_time": None, "save_every": None}
    return replace(x, trainer=replace(x.trainer, **looks, **ends))


def weights(x: Experiment, prepared: Prepared, cached: bool) -> dict[str, torch.Tensor]:
    """What trains, after the first steps: over what is shared, or (`cached` false) from pixels and texts read anew."""
    from lab.lora import trainable
    from lab.model.encoding import Encoder
    from lab.run.assembly import assemble, attached
    from lab.training import loop
    from lab.training.screening import examples_of

    if cached:
        examples = prepared.encoded(x)
    else:
        encoder = Encoder(assemble(x, prepared.vlm), x.prompt, x.seed, prepared.splits.answers)
        examples = examples_of(prepared.splits, ("train", "minival"), encoder, x.data)
    with tempfile.TemporaryDirectory(prefix="lab-self-check-") as scratch, attached(x, prepared.vlm) as vlm:
        loop.train(x, vlm, examples, Path(scratch), time.time())
        return {name: parameter.detach().clone() for name, parameter in trainable(vlm).items()}


def largest_difference(x: Experiment, prepared: Prepared) -> float:
    """The largest gap between trained weights after the first steps, shared base against a base loaded anew; 0 is bit-identical."""
    from lab import model
    from lab.run import Prepared as Fresh

    x = shorten(x)
    shared = weights(x, prepared, cached=True)
    fresh = Fresh(model.load(x.model, Path(x.tracking.cache_dir)), prepared.splits_of(x))
    fresh.vlm.model.to(prepared.vlm.device)
    alone = weights(x, fresh, cached=False)
    return max(float((shared[name] - alone[name]).abs().max()) for name in shared)


def answer(x: Experiment, prepared: Prepared, end: Connection, parent: int) -> None:
    """In a fork: send the difference. It ends with its parent, and is stopped by that alone."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    die_with(parent)
    torch.set_num_threads(x.trainer.threads)
    end.send(largest_difference(x, prepared))


class SelfCheck:
    """`largest_difference` of an arm, in a fork that begins at once, as arms are on a CPU; in this process, when it is asked for, on a GPU."""

    def __init__(self, x: Experiment, prepared: Prepared) -> None:
        self.x, self.prepared, self.process = x, prepared, None
        if prepared.vlm.device.type == "cpu":
            self.here, there = FORK.Pipe(duplex=False)
            self.process = FORK.Process(target=answer, args=(x, prepared, there, os.getpid()))
            self.process.start()
            there.close()

    def difference(self) -> float | None:
        """Waits for it. None, with a warning, where the check failed."""
        if self.process is None:
            return largest_difference(self.x, self.prepared)
        try:
            return float(self.here.recv())
        except EOFError:
            log.warning("self-check: its process ended without an answer; the shared base was not checked")
            return None
        finally:
            self.process.join()

    def stop(self) -> None:
        """Nobody waits for it any more."""
        if self.process is not None:
            self.process.terminate()
            self.process.join()


def describe(difference: float, name: str) -> str:
    """The answer in a sentence."""
    same = "bit-identical" if difference == 0.0 else f"largest difference of a weight {difference:.3g}"
    return f"shared base against alone, first {STEPS} steps of {name}: {same}"
