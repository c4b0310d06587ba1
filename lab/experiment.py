"""The laboratory from Python: `from lab import Experiment`. What the commands do, in the same run folders, under the same names.

    experiment = Experiment("lora.r=8", data="pairs")
    experiment.train()                                  # python -m lab.train lora.r=8 data=pairs
    experiment.predict("pictures/", "Is it raining?")   # python -m lab.predict RUN pictures/ --question "Is it raining?"
    experiment.sweep("lora.r=8,16,32").table            # python -m lab.train data=pairs lora.r=8,16,32 -m

A run that a command has finished is not trained again here, nor the other way round.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import cli, config
from lab.errors import ConfigError, DataError, LabError
from lab.host.progress import Report, bars, silent
from lab.sweeping.launcher import foreseen, register

if TYPE_CHECKING:
    import pandas as pd

    from lab.report.findings import Findings
    from lab.run.predicting import Predictor
    from lab.store.runs import Run

log = logging.getLogger(__name__)

register()

Place = str | PathLike[str]
Value = str | int | float | bool | None | PathLike[str] | Sequence[Any] | Mapping[str, Any]


class Experiment:
    """One experiment, composed and checked like a command.

    overrides: as on the command line, `"lora.r=8"`, `"data=questions"`. values: the same as keywords, keys of a section as a mapping:
    `data="pairs", lora={"r": 8}, seed=1`. progress: bars on standard error. Raises `ConfigError`, or Hydra's own errors.
    """

    def __init__(self, *overrides: str, progress: bool = True, **values: Value) -> None:
        self.overrides = (*overrides, *(line for key, value in values.items() for line in spelled(key, value)))
        self.progress: Report = bars() if progress else silent
        cli.ignore_known_warnings()
        self.config: config.Experiment = cli.compose(self.overrides)
        self._predictor: Predictor | None = None

    def __repr__(self) -> str:
        return f"Experiment({', '.join(map(repr, self.overrides))})"

    @property
    def identity(self) -> str:
        """The name of its run folder."""
        return config.identity(self.config)

    @property
    def runs_dir(self) -> Path:
        return Path(self.config.tracking.runs_dir)

    @property
    def folder(self) -> Path:
        """Its run folder: run.json, predictions, adapter, contract."""
        return self.runs_dir / self.identity

    def run(self) -> Run:
        """The record of the finished run. Raises `DataError` if it is not there, or has not finished."""
        from lab.store import runs

        known = runs.load(self.runs_dir, self.identity)
        if known is None or known.status != runs.FINISHED:
            what = "has not run" if known is None else f"is {known.status}"
            raise DataError(f"{self.folder}: the experiment {what}. Call train() first.")
        return known

    def train(self) -> pd.DataFrame:
        """Train and measure it, unless its run is finished; the curves, a row for each recorded step."""
        import pandas as pd

        from lab.store import curve_files
        from lab.sweeping.arms import command_of
        from lab.train import run_alone

        run_alone(self.config, command_of("train", self.overrides), time.time(), self.progress)
        return pd.DataFrame(curve_files.read(self.folder))

    def evaluate(self, *overrides: str, split: str = "dev") -> pd.DataFrame:
        """The metrics of a split with their 95 % intervals; overrides: other data or ways to evaluate, as of `lab.evaluate`."""
        from lab import evaluate, finished
        from lab.answers import predictions
        from lab.store import runs

        run = self.run()
        path = runs.own_predictions(run, self.folder, split)
        if overrides or not path.exists():
            path, _ = evaluate.evaluate(run, finished.changed(run, overrides), self.runs_dir, split, overrides, report=self.progress)
        return with_intervals(predictions.read(path), self.config.evaluation.bootstrap)

    def predict(
        self, pictures: Place | Sequence[Place], question: str | None = None, to: Place | None = None, overwrite: bool = False
    ) -> pd.DataFrame:
        """Answers about pictures, folders, or a file of questions: image, question, answer, probability.

        `attrs["skipped"]` lists bad pictures and questions, each with the reason. The model stays loaded for the next call.
        to: a folder for what `python -m lab.predict` writes, gallery.html among it; one with files only with `overwrite`.
        """
        from lab import predict
        from lab.finished import changed
        from lab.run import predicting

        places = [pictures] if isinstance(pictures, str | PathLike) else pictures
        if to is not None:
            predict.require_room(Path(to), overwrite)
        run = self.run()
        if self._predictor is None or self._predictor.run != run:  # it was trained again since
            self._predictor = predicting.Predictor(self.runs_dir, run, changed(run, []))
        questions = self._predictor.questions([Path(place).expanduser() for place in places], question)
        answers = self._predictor.answer(questions, self.progress)
        if to is not None:
            predict.write(answers, Path(to), predict.MOST_CASES)
        frame = answers.arrow().to_pandas()
        frame.attrs["skipped"] = [f"{one.source}: {one.reason}" for one in answers.splits.skipped]
        for sentence in frame.attrs["skipped"]:
            log.warning("skipped: %s", sentence)
        return frame

    def report(self) -> Results:
        """What a report says of its run."""
        self.run()
        return results(self.runs_dir, run_ids=[self.identity])

    def sweep(self, *overrides: str, max_arms: int | None = None) -> Results:
        """Train an arm for every combination of comma-separated values, `"lora.r=8,16"`, over one shared base; compare them.

        max_arms: that ride together (`hydra.launcher.max_arms`). An arm that fails is a row without numbers.
        """
        from lab.sweeping.arms import SweepSource, command_of
        from lab.sweeping.sweep import run_sweep, sweep_identity

        lines = (*self.overrides, *overrides)
        asked = foreseen(lines, "train")
        source = SweepSource(" ".join(overrides), f"{command_of('train', lines)} -m", "train", None, time.time())
        run_sweep(asked, source, max_arms)
        return results(self.runs_dir, sweep_identity([arm.experiment for arm in asked]))


@dataclass(frozen=True)
class Figure:
    """A figure of the report as a PNG file; a notebook shows it."""

    png: bytes = field(repr=False)
    caption: str

    def _repr_png_(self) -> bytes:
        return self.png


@dataclass(frozen=True)
class Results:
    """Runs side by side, as `python -m lab.report` has them. A notebook shows the table."""

    findings: Findings

    @property
    def table(self) -> pd.DataFrame:
        """A row for each arm: what a report shows first, with the ends of 95 % intervals; an arm without numbers says its status."""
        import pandas as pd

        table = pd.DataFrame([cells(result) for result in self.findings.results]).set_index("arm")
        return table.astype({name: "Int64" for name in table.columns if name == "trainable_parameters"})

    @property
    def claims(self) -> list[str]:
        """What the data carry, a sentence for each pair of arms."""
        return [pair.claim.sentence for pair in self.findings.compared.pairs]

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """The figures of the report by name."""
        from lab.report.drawing import drawings
        from lab.report.page import pictures_of

        drawn = drawings(pictures_of(self.findings))
        return {name: Figure(one.png, one.caption) for name, one in drawn.items() if one.png is not None}

    def figure(self, name: str | None = None) -> Figure:
        """One of them; the first without a name. Raises `ConfigError` for a name that there is not."""
        if name is not None and name not in self.figures:
            raise ConfigError(f"figure({name!r}): there is no such figure. Legal: {', '.join(self.figures)}.")
        return self.figures[name or next(iter(self.figures))]

    def write(self, folder: str | PathLike[str] = "report") -> Path:
        """Write the whole report, as `python -m lab.report --out FOLDER`; the path of its page."""
        from lab.report.write import write_report

        return write_report(self.findings.selection, Path(folder), num_cases=24, findings=self.findings) / "report.html"

    def _repr_html_(self) -> str:
        return self.table.to_html()


def results(runs_dir: Path, sweep: str | None = None, run_ids: Sequence[str] = ()) -> Results:
    """What is known of a sweep or of runs (`lab.report.select_runs.choose`)."""
    from lab.report.findings import study
    from lab.report.select_runs import choose

    return Results(study(choose(runs_dir, sweep, run_ids)))


def cells(result: Any) -> dict[str, Any]:
    """One row of `Results.table`."""
    from lab.report.measure import Measured
    from lab.report.tables import state_of
    from lab.tracking.naming import COSTS

    row: dict[str, Any] = {"arm": result.arm.label, "run": result.arm.run.identity}
    if not isinstance(result, Measured):
        return row | {"status": state_of(result)}
    row["status"] = result.arm.run.status
    for name in result.kind.shown:
        row[name] = result.metrics.get(name)
        if (interval := result.intervals.get(name)) is not None:
            row |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
    return row | {name: result.arm.run.metrics.get(source) for name, source in COSTS.items()}


def with_intervals(table: Any, num_resamples: int) -> pd.DataFrame:
    """The metrics of a table of predictions that a report shows first: estimate, low, high, n.

    Where nothing can be resampled there are no ends, and `attrs["no_interval"]` says why.
    """
    import pandas as pd

    from lab.statistics.intervals import intervals
    from lab.statistics.metrics import KINDS

    kind = KINDS[table.kind]
    try:
        found = intervals([table], kind.shown, num_resamples=num_resamples)[0]
        rows, why = {name: (one.estimate, one.low, one.high, one.num_examples) for name, one in found.items()}, None
    except LabError as error:
        metrics = [kind.metrics[name] for name in kind.shown if kind.metrics[name].only(table)]
        rows, why = {metric.name: (metric.of(table), math.nan, math.nan, len(table)) for metric in metrics}, str(error)
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["estimate", "low", "high", "n"]).rename_axis("metric")
    frame.attrs |= {"no_interval": why} if why else {}
    return frame


def spelled(key: str, value: Value) -> list[str]:
    """Overrides in Hydra's grammar: a mapping gives one for each of its keys."""
    if isinstance(value, Mapping):
        return [line for name, part in value.items() for line in spelled(f"{key}.{name}", part)]
    return [f"{key}={literal(value)}"]


def literal(value: Value) -> str:
    """A value in Hydra's grammar; texts that it could take for something else are quoted."""
    if value is None:
        return "null"
    if isinstance(value, bool | int | float):
        return str(value).lower()
    if isinstance(value, str | PathLike):
        text = fspath(value)
        if re.fullmatch(r"[A-Za-z_][\w./-]*", text, re.ASCII) and text.lower() not in ("null", "true", "false", "nan", "inf"):
            return text
        return "'" + re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), text) + "'"
    if isinstance(value, Sequence):
        return f"[{','.join(map(literal, value))}]"
    raise ConfigError(f"{value!r}: a text, a number, True, False, None, a list or a mapping of them is legal.")
