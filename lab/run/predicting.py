"""A finished run asked about files of one's own: what `lab.predict`, `lab.serve` and `lab.Experiment` share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from lab import data, prompt
from lab.answers import predictions
from lab.answers.predictions import PredictionTable
from lab.answers.regions import RegionsTable
from lab.artifacts import contract
from lab.config import DataDial, Experiment, OnBad
from lab.data.conversation_file import unanswered as conversations
from lab.data.conversation_file.record import COLUMNS
from lab.data.question_file.unanswered import FILES, READ, Rule, Turns, Unanswered, alone, of_file, of_pictures, splits_of
from lab.errors import ConfigError, LabError
from lab.host.progress import Report
from lab.records import AnswerSpace, Clip, Picture, Splits
from lab.run.assembly import clip_rule
from lab.run.rebuilt import Rebuilt, rebuild
from lab.store import runs
from lab.store.runs import Run


class Predictor:
    """A finished run that answers; its model is loaded with the first questions and kept."""

    def __init__(self, runs_dir: Path, run: Run, x: Experiment) -> None:
        self.run, self.x = run, x
        self.run_dir = runs.folder(runs_dir, run.identity)
        self.rebuilt: Rebuilt | None = None

    @cached_property
    def answers(self) -> AnswerSpace:
        """What it answers with."""
        return contract.answers_of(contract.load(self.run_dir), self.x.prompt)

    @cached_property
    def numbers(self) -> set[int]:
        """How many pictures and clips its questions have."""
        path = runs.own_predictions(self.run, self.run_dir, "dev")
        return {len(order) for order in predictions.read(path, ["image_order"]).image_order}

    @cached_property
    def rule(self) -> Rule:
        """How its contract samples clips, or why it takes none."""
        try:
            return clip_rule(self.x)
        except LabError as error:
            return error

    @cached_property
    def converses(self) -> bool:
        """Whether it was taught conversations."""
        return prompt.parse_template(self.x.prompt).asks == "conversation"

    @property
    def turns(self) -> Turns:
        """What a lone question is in a conversation."""
        return conversations.turns_of if self.converses else alone

    def questions(self, places: Sequence[Path], question: str | None, keys: Sequence[str] = ()) -> Splits:
        """What is to be asked, every picture looked at. keys: of the data dial, for a file. Raises `ConfigError` or `DataError`."""
        cache = Path(self.x.tracking.cache_dir)
        if len(places) == 1 and not places[0].is_dir() and places[0].suffix.lower() in FILES:
            found = self.of_file(places[0], question, keys, cache)
        elif keys:
            raise ConfigError(f"data.{keys[0]}: it is read for one file of questions, and pictures are given. Leave it out.")
        elif question is None or not question.strip():
            raise ConfigError('--question: nothing is asked of these pictures. Give --question "...", or one file with a column question.')
        else:
            found = of_pictures(places, question, self.numbers, self.rule, self.turns)
        return splits_of(found, self.answers, self.numbers, cache)

    def of_file(self, path: Path, question: str | None, keys: Sequence[str], cache: Path) -> Unanswered:
        """What one file asks: as `data=questions` reads it, or of a run over conversations as `data=conversations` does."""

        def dial(name: str, legal: Sequence[str], **given: Any) -> DataDial:
            lead = data.lead(self.x.data)
            own = [f"columns.{column}={key}" for column, key in lead.columns.items() if column in legal] if lead.name == name else []
            return data.dial_of(name, [*own, *keys], " ".join(keys) or f"data={name}", **given)

        if self.converses:
            manifest = dial("conversations", [column for column in COLUMNS if column != "split"], sources=[str(path)])
            if conversations.is_manifest(path, manifest.columns, cache):
                if question is not None:
                    raise ConfigError(f"--question: {path} has turns of its own. Leave it out.")
                return conversations.of_manifest(path, manifest, cache, self.rule)
        return of_file(dial("questions", READ, path=str(path)), question, cache, self.rule, self.turns)

    def answer(self, questions: Splits, report: Report) -> Predicted:
        """What the run says. Raises `ContractError` if its adapter would not be used as it was trained."""
        if self.rebuilt is None:
            self.rebuilt = rebuild(self.run, self.run_dir, self.x, self.answers, "this prediction", report)
        dial = replace(data.lead(self.x.data), on_bad=OnBad.skip)
        part = runs.part_file(self.run_dir / "evaluations" / "predict", data.fingerprint(questions.dev)[:10])
        splits, rows = self.rebuilt.ask(questions, "dev", dial, report, part)
        return Predicted(self.run, splits, predictions.table(rows), self.rebuilt.contract)


@dataclass(frozen=True)
class Predicted:
    """splits: what was asked as dev, and what was skipped. table: its answers in order. contract: that they were given under."""

    run: Run
    splits: Splits
    table: PredictionTable
    contract: dict[str, Any]

    def arrow(self) -> pa.Table:
        """One row a question: image (several: a.png|b.png), video alike where one has any, question, answer, the boxes that it reads as, its
        probability, id."""
        samples = [self.splits.dev.index(row) for row in range(len(self.splits.dev))]
        boxes = ("regions", "scores", "status", "width", "height") if isinstance(self.table, RegionsTable) else ()
        media = {"image": Picture} | ({"video": Clip} if self.splits.clips else {})
        return pa.table({
            **{name: ["|".join(each.source for each in sample.images if isinstance(each, kind)) for sample in samples]
               for name, kind in media.items()},
            "question": [sample.text for sample in samples],
            "answer": self.table.answered.tolist(),
            **{name: cells(self.table, name) for name in boxes},
            "probability": self.table.confidence,
            "id": self.table.sample_id.tolist(),
        })  # fmt: skip


def cells(table: PredictionTable, name: str) -> pa.Array:
    """A column as Arrow has it in a file of answers."""
    values = getattr(table, name)
    listed = [[region._asdict() for region in row] for row in values] if name == "regions" else values.tolist()
    return pa.array(listed, table.fields()[name].type)
