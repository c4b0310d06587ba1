"""lab export RUN --to FOLDER: a finished run as a plain adapter or model folder, asked by Transformers alone. Light until it starts."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lab import paths, plugins
from lab.cli import add_run, bounded, program, run_cli, set_up_logging, take_run
from lab.errors import ConfigError, ContractError, DataError

if TYPE_CHECKING:
    from lab.config import Experiment
    from lab.run.exporting import Exported, Exporting
    from lab.store.runs import Run

log = logging.getLogger(__name__)

DESCRIPTION = """Write a run's adapter, or with --merge its whole model, as a plain folder of PEFT or Transformers with the processor of the
training, its chat template and a model card. The folder is loaded in a process that imports Transformers and PEFT alone and must answer 32
questions as the run does. Commands for vLLM and transformers serve are written beside it, FOLDER.serve.sh. Nothing is overwritten."""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(prog=program("lab.export"), usage="%(prog)s RUN --to FOLDER [options]", description=DESCRIPTION)
    made.add_argument("words", nargs="*", metavar="RUN", help=argparse.SUPPRESS)
    add_run(made)
    made.add_argument("--to", type=paths.argument, required=True, metavar="FOLDER", help="where to write; it must be new or empty")
    made.add_argument("--merge", action="store_true", help="the whole model, adapters merged; arms that trained whole parts are written so anyway")
    made.add_argument("--step", type=bounded(int, 0), metavar="N", help="a checkpoint of a run that still trains, after so many optimizer steps")
    made.add_argument("--mlflow", action="store_true", help="the folder also as the run's LoggedModel, in the store that the run is tracked in")
    made.add_argument("--runs-dir", type=paths.argument, default=Path("runs"), metavar="DIR", help="where run folders lie (default: runs)")
    made.add_argument("--plugins", nargs="+", action="extend", default=[], metavar="FOLDER", help=plugins.HELP)
    return made


def export_run(runs_dir: Path, name: str, to: Path, merge: bool = False, step: int | None = None, mlflow: bool = False) -> str:
    """Export, and say what a person reads. The folder appears when it has answered as the run does. mlflow: register it there too.

    Raises `DataError` for a run or a step that is not there, `ModelError` for an arm that no plain folder holds or a folder that holds
    anything, `ContractError` where the folder would not be used as trained, or answers otherwise.
    """
    from lab.artifacts import export
    from lab.finished import find
    from lab.freezing import from_dict
    from lab.host.progress import bars
    from lab.run import exporting
    from lab.store import runs

    beside = to.parent / f"{to.name}.serve.sh"
    for path in (to, beside):
        export.require_room(path)
    if mlflow and step is not None:
        raise ConfigError(f"--step {step}, --mlflow: MLflow has a model of a run that has finished. Leave one of the two out.")
    run = find(runs_dir, name, finished=step is None)
    source = runs.folder(runs_dir, run.identity)
    x = from_dict(run.config, f"{source / 'run.json'}")
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{to.name}.", dir=to.parent) as scratch:
        if step is not None:
            exporting.of_step(x, source, step, Path(scratch) / "run")
            source = Path(scratch) / "run"
        arm = exporting.Exporting(run, x, source, Path(scratch), bars())
        folder = Path(scratch) / "folder"
        done = arm.write(folder, merge)
        assert done.plain is not None
        if not exporting.tolerated(x, done.plain):
            raise ContractError(
                f"--to {to}: nothing is written, as plain Transformers answers {done.plain.flips} of {done.plain.num_examples} questions "
                "otherwise than the run. `lab verify` says whether the run itself still answers as measured."
            )
        lines = describe(x, done)
        write_card(run, arm, done, folder, lines, step, runs.folder(runs_dir, run.identity))
        script = serving(run, arm, done, to)
        os.replace(folder, to)
        beside.write_text(script, encoding="utf-8")
    if mlflow:
        lines.append(register(run, runs_dir, arm, bool(done.whole), to))
    upload = f"hf upload YOUR_NAME/{run.name} {shlex.quote(str(to))}"
    return "\n".join([*lines, f"written to {to}; to serve it: {beside}", f"to upload it: {upload}"])


def describe(x: Experiment, done: Exported) -> list[str]:
    """What was done and measured, in sentences."""
    quantised = x.model.quantisation.value
    lines = [f"the folder holds the whole model: {done.whole}" if done.whole else "the folder holds the adapter alone, for PEFT over its base"]
    if quantised != "none":
        lines += [f"merged into {base}: {outcome}" for base, outcome in done.merging.items()]
        lines += [f"chosen: merged into {done.into}, which changes the arm trained over {quantised} least"] if done.into else []
    assert done.plain is not None
    equal = done.plain.num_examples - done.plain.flips
    return [*lines, f"reloaded by Transformers and PEFT alone: {equal} of {done.plain.num_examples} answers equal"]


def write_card(run: Run, arm: Exporting, done: Exported, folder: Path, lines: list[str], step: int | None, run_dir: Path) -> None:
    """Write the folder's README.md. run_dir: where the run's answers lie."""
    from lab.answers import predictions as tables
    from lab.artifacts import card
    from lab.report import rescoring
    from lab.store import runs

    answers = runs.own_predictions(run, run_dir, "dev")
    dev = tables.read(answers) if answers.is_file() else None
    text = card.text(run, done.vlm, arm.described, bool(done.whole), lines, step, dev, rescoring.stored(run_dir))
    (folder / "README.md").write_text(text, encoding="utf-8")


def serving(run: Run, arm: Exporting, done: Exported, to: Path) -> str:
    """The script beside the folder."""
    from lab.artifacts import serve_script

    images = max(len(arm.splits.dev.index(i).images) for i in range(len(arm.splits.dev)))
    return serve_script.text(done.vlm, arm.described, to, run.identity, images)


def register(run: Run, runs_dir: Path, arm: Exporting, whole: bool, to: Path) -> str:
    """Make the folder the artifacts of the run's LoggedModel; the run is delivered first. Raises `DataError` where the store is away."""
    from lab.store import runs
    from lab.store.sync_state import latest
    from lab.sync import deliver, where
    from lab.tracking import logged_model

    deliver([run], str(runs_dir))
    note = latest(runs.folder(runs_dir, run.identity))
    if note is None or note.model_id is None:
        raise DataError(f"--mlflow: the store has no model of run {run.identity}. The folder is written; `lab sync` says what is wrong.")
    sample = arm.splits.dev[0]
    example = {"image": "|".join(picture.source for picture in sample.images), "question": sample.text}
    logged_model.register(where(run, str(runs_dir), None, None), note.model_id, to, "transformers" if whole else "peft", example)
    return f"registered in MLflow as the artifacts of {note.model_id}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command-line entry point; 2 if the user must act."""
    arguments_of = parser()
    given = arguments_of.parse_intermixed_args(arguments)
    take_run(arguments_of, given, given.words)
    if given.words:
        arguments_of.error(f"{' '.join(given.words)}: one run is exported at a time. Type {arguments_of.prog} {given.run} --to {given.to}")
    set_up_logging()

    def act() -> int:
        plugins.load(given.plugins)
        print(export_run(given.runs_dir, given.run, given.to, given.merge, given.step, given.mlflow), flush=True)
        return 0

    return run_cli(act)


if __name__ == "__main__":
    sys.exit(main())
