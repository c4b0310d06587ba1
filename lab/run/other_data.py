"""Data beside a run's own that its finished arm is asked, of any kind of answer: `evaluation.also`, and the other parts of a mixture."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lab import data, prompt
from lab.answers import predictions
from lab.artifacts import contract
from lab.config import EvaluationSection, Experiment
from lab.evaluation import asking
from lab.host.progress import Report
from lab.model import Vlm
from lab.model.encoding import Encoder
from lab.records import Choice, Part, Splits, Text
from lab.run import benchmarks
from lab.run.assembly import check_clips
from lab.statistics import rules, summary
from lab.store import runs
from lab.training.examples import Examples
from lab.training.screening import screen

log = logging.getLogger(__name__)

OTHERS = ("also ", "part ")
"""What begins the names of other data among all that is asked."""


@dataclass(frozen=True)
class Other:
    """asked: its name among `lab.config.asked`. spelled: as it was asked for. part: without what cannot be encoded. examples: by split."""

    asked: str
    spelled: str
    part: Part
    examples: dict[str, Examples]

    @property
    def encoder(self) -> Encoder:
        """Of its questions."""
        return self.examples["dev"].encoder


def of_also(x: Experiment, encoder: Encoder, wanted: Iterable[str]) -> Iterator[Other]:
    """The options of `evaluation.also` that are wanted, read and encoded. encoder: of the run's own questions."""
    for spelled in x.evaluation.also:
        if (asked := f"also {spelled}") in wanted:
            part = data.option(spelled).load(Path(x.tracking.cache_dir))
            if part.splits.clips:
                check_clips(x, f"data={part.dial.name}")
            splits, examples = screen(part.splits, ("dev",), encoder.of_data(part.dial, part.splits.answers, part.prompt), part.dial)
            for note in splits.notes:
                log.info("data: %s", note)
            yield Other(asked, spelled, replace(part, splits=splits), examples)


def of_parts(x: Experiment, splits: Splits, encoded: Mapping[str, Examples], wanted: Iterable[str]) -> Iterator[Other]:
    """The parts of a mixture that are wanted, but for the first, whose dev is the run's own. encoded: as of `lab.training.screening.screen`."""
    for spelled, part in zip(x.data.parts[1:], splits.parts[1:], strict=True):
        if (asked := f"part {spelled}") in wanted:
            yield Other(asked, spelled, part, {split: encoded[f"{part.name}.{split}"] for split in x.evaluation.splits if split != "train"})


def mixture_of(splits: Splits, encoded: Mapping[str, Examples], section: EvaluationSection) -> dict[str, Any]:
    """What a contract keeps of a mixture: each part's data, how much of it is seen, and how its questions are put and answered."""
    found: dict[str, Any] = {}
    for number, part in enumerate(splits.parts):
        encoder = encoded[f"{part.name}.dev" if number else "dev"].encoder
        own = section_of(section, encoded["dev"].encoder.answers.kind, encoder.answers.kind)
        found[part.name] = {
            "data": part.dial.name, "weight": part.weight, "epochs": part.epochs, "cap": part.cap, "prompt": prompt.describe(encoder.prompt),
            "answers": contract.describe_answers(encoder.readout, own), **({"video": asdict(part.dial.video)} if part.splits.clips else {}),
        }  # fmt: skip
    return found


def section_of(section: EvaluationSection, own: str, kind: str) -> EvaluationSection:
    """How answers of a kind are asked beside a run whose own are of another: `max_new_tokens` was said of those, or of words where they are
    none that are written.
    """
    return section if kind == own or (own, kind) == (Choice.kind, Text.kind) else replace(section, max_new_tokens=None)


def ask(x: Experiment, vlm: Vlm, other: Other, own: Encoder, run_dir: Path, report: Report, digest: str) -> tuple[dict[str, float], dict[str, Any]]:
    """Ask the splits of other data and write their predictions; return `<name>/<split>/<metric>`, and the facts of it by its name.

    digest: of what is asked. own: the encoder of the run's own questions.
    """
    out: dict[str, float] = {}
    part, dial, readout = other.part, other.part.dial, other.encoder.readout
    section = section_of(x.evaluation, own.readout.kind, readout.kind)
    for split, examples in other.examples.items():
        path, name = runs.predictions_file(run_dir, part.name, split), f"{part.name}/{split}"
        if len(examples):
            if split == "dev" and benchmarks.is_one(dial):
                rows = benchmarks.ask(x, vlm, examples, dial, section, run_dir, part.name, report)
                out |= benchmarks.mark(dial, part.name, examples, [one.reason for one in part.splits.skipped], rows, run_dir)
                if "generate" in section.ask and readout.kind == Choice.kind:
                    texts = asking.ask(vlm, examples, readout, section, name, report, "generate")
                    out |= benchmarks.hold_against(dial, part.name, rows, texts, run_dir)
            else:
                rows = asking.ask(vlm, examples, readout, section, name, report, part=runs.part_file(path, digest))
            predictions.write(path, rows)
            out |= summary.of_split(name, predictions.read(path), section.bootstrap)
    dev = predictions.read(runs.predictions_file(run_dir, part.name, "dev"))
    numbers, lines = rules.evaluated(vars(dial), dev)
    if lines:
        log.info("%s", lines)
    out |= {f"{part.name}/dev/{key}": value for key, value in numbers.items()}
    return out, {part.name: facts_of(other, own, section)}


def facts_of(other: Other, own: Encoder, section: EvaluationSection) -> dict[str, Any]:
    """What a run records of other data."""
    split, dial, splits = other.examples["dev"].split, other.part.dial, other.part.splits
    return {
        "option": other.spelled, "data": dial.name, "rule": rules.rule_of(vars(dial)), "examples": len(split), "samples": data.fingerprint(split),
        "notes": list(splits.notes), "skipped": len(splits.skipped), "baselines": dict(splits.baselines),
        "prompt": prompt.describe(other.encoder.prompt),
        "own_prompt": (other.encoder.prompt, other.encoder.answers.kind) == (own.prompt, own.answers.kind),
        "answers": contract.describe_answers(other.encoder.readout, section),
    }  # fmt: skip
