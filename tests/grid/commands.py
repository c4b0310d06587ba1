"""One row of the grid as `python -m lab.train` takes it, in this process, and what became of it."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from kills import PowerCut

from grid.dimensions import DIMENSIONS, Row, overrides, refused
from lab import data, model, train
from lab.store import runs
from lab.training.learner import Learner

FINISHED, REFUSED, FAILED = "finished", "refused", "failed"
HELD = (
    "trainer.batch_size=2", "optim.lr=0.01", "optim.warmup_fraction=0", "evaluation.latency_examples=0", "evaluation.batch_size=4",
    "evaluation.probe_examples=2", "sweep.self_check=false", "tracking.enabled=false",
)  # fmt: skip
"""What every row has."""
ARMS = "optim.lr=0.01,0.02"
"""What the two arms of a sweep over a shared base differ in; another launcher gets one arm."""


@dataclass
class Verdict:
    """How a row ended. told: the sentence of a refusal, or what is wrong. arguments: of the command line."""

    row: Row
    outcome: str
    told: str = ""
    arguments: list[str] = field(default_factory=list)
    seconds: float = 0.0
    trace: str = ""


def arguments(row: Row, root: Path, folder: Path, parameters: str = "1000000") -> list[str]:
    """The command line of a row."""
    given = [*HELD, *(one.replace("{root}", str(root)).replace("{parameters}", parameters) for one in overrides(row))]
    places = [f"tracking.runs_dir={folder}/runs", f"tracking.cache_dir={root}/cache"]
    if row["launcher"] == "alone":
        return [*given, *places]
    return [ARMS if one.startswith("optim.lr=") and row["launcher"] == "shared" else one for one in given] + [*places, "-m"]


def run(row: Row, root: Path, folder: Path) -> Verdict:
    """Run a row and judge it; what it prints goes to `folder`/log.txt."""
    folder.mkdir(parents=True)
    began, log = time.time(), folder / "log.txt"
    verdict = Verdict(row, FAILED)
    with printed_to(log):
        try:
            verdict.arguments = arguments(row, root, folder, wanted_parameters(row, root, folder))
            verdict.outcome, verdict.told = outcome(row, verdict.arguments, folder)
        except BaseException as error:  # the verdict on whatever a row ends with
            verdict.told, verdict.trace = f"{type(error).__name__}: {str(error)[:500]}", traceback.format_exc()
            traceback.print_exc()
    if verdict.outcome == FAILED and not verdict.trace:
        verdict.trace = last_trace(folder)
    verdict.seconds = time.time() - began
    return verdict


def outcome(row: Row, given: list[str], folder: Path) -> tuple[str, str]:
    """Give the command, twice where it is to be gone on with."""
    from grid.judging import faults

    if row["training"] == "resumed" and not refused(row):
        with cut_after_the_first_step(), contextlib.suppress(PowerCut):
            command(given)
    loaded: list[str] = []
    with told_of_loading(loaded):
        code = command(given)
    log = (folder / "log.txt").read_text(encoding="utf-8", errors="replace")
    said = ("\n" + log).rpartition("\nerror: ")
    if code == 2 and said[1]:
        sentence = said[2].strip()
        late = f"refused after loading ({', '.join(loaded)}): " if loaded else ""
        return (FAILED if late else REFUSED), late + sentence
    if code:
        errors = [known.error or "" for known in runs.all_runs(folder / "runs") if known.status != runs.FINISHED]
        return FAILED, f"exit code {code}: {'; '.join(sorted(set(errors)))}"
    wrong = [fault for known in runs.all_runs(folder / "runs") for fault in faults(row, known, folder / "runs")]
    return (FAILED, "; ".join(wrong)) if wrong else (FINISHED, "")


def command(given: list[str]) -> int:
    """The exit code of `python -m lab.train`, in this process; another error than the user's is raised."""
    from hydra.core.global_hydra import GlobalHydra

    from lab.sweeping.launcher import register

    GlobalHydra.instance().clear()
    register()
    with mock.patch.object(sys, "argv", ["lab.train", *given]):
        try:
            train.main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


@contextlib.contextmanager
def told_of_loading(loaded: list[str]) -> Iterator[None]:
    """Within, what is loaded is noted: `data`, `model`."""

    def noting(name: str, real: Any) -> Any:
        def load(*args: Any, **options: Any) -> Any:
            loaded.append(name)
            return real(*args, **options)

        return load

    with mock.patch.object(data, "load", noting("data", data.load)), mock.patch.object(model, "load", noting("model", model.load)):
        yield


@contextlib.contextmanager
def cut_after_the_first_step() -> Iterator[None]:
    """Within, a training ends as by a power cut when its second batch begins."""
    real = Learner.on_train_batch_start

    def hook(self: Learner, batch: Any, index: int) -> None:
        real(self, batch, index)
        if self.trainer.global_step == 1:
            raise PowerCut

    with mock.patch.object(Learner, "on_train_batch_start", hook):
        yield


def wanted_parameters(row: Row, root: Path, folder: Path) -> str:
    """What an adapter of rank 4, and the modules of other dials, come to, where a row asks for a number of parameters."""
    if row["size"] != "parameters" or refused(row):
        return "1000000"
    from lab import lora
    from lab.cli import compose
    from lab.run import assemble
    from lab.sweeping.launcher import register

    register()
    x = compose(arguments(row | {"size": "rank", "launcher": "alone"}, root, folder))
    vlm = assemble(x, model.load(x.model))
    return str(lora.adapter_parameters(vlm, x.lora) + lora.added_parameters(vlm, x.lora))


@contextlib.contextmanager
def printed_to(path: Path) -> Iterator[None]:
    """Within, standard output and error go to a file, also those of forked processes and of libraries in C."""
    kept = [(stream, os.dup(stream)) for stream in (1, 2)]
    with path.open("a", buffering=1, encoding="utf-8") as file:
        try:
            for stream, _ in kept:
                os.dup2(file.fileno(), stream)
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield
        finally:
            logging.basicConfig(handlers=[logging.NullHandler()], force=True)  # the door's handler writes to the file
            for stream, copy in kept:
                os.dup2(copy, stream)
                os.close(copy)


def last_trace(folder: Path) -> str:
    """The last traceback that the row, or one of its arms, has printed."""
    logs = [folder / "log.txt", *sorted((folder / "runs").glob("*/log.txt"))]
    texts = [log.read_text(encoding="utf-8", errors="replace") for log in logs if log.is_file()]
    found = [text.rpartition("Traceback (most recent call last)")[2] for text in texts if "Traceback (most recent" in text]
    return found[-1][:6000] if found else ""


def names(row: Row, dimension: str) -> set[str]:
    """What a sentence may call a row's choice in a dimension: its keys and its dial."""
    keys = {override.partition("=")[0] for override in DIMENSIONS[dimension][row[dimension]] if "=" in override}
    return keys | {key.partition(".")[0] + "." for key in keys if "." in key}
