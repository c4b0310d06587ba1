"""A finished arm asked a benchmark: `answers/<set>.jsonl` as it goes, then `evaluations/<set>.json` by the benchmark's rule."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lab import prompt
from lab.artifacts import contract
from lab.benchmark_specs import SPECS
from lab.config import DataDial, EvaluationSection, Experiment, ImageOrder, trains
from lab.data.benchmarks import marks
from lab.data.benchmarks.loading import opened
from lab.evaluation import asking
from lab.evaluation.answers_file import AnswersFile
from lab.evaluation.generation import Generated
from lab.host.files import file_hash, values_hash, write_atomically
from lab.host.progress import Report
from lab.model import Vlm
from lab.records import Prediction, Written
from lab.statistics.marking import RULES
from lab.training.examples import Examples


class Running:
    """A `Report` that says beside every step the rate, how many are left and the score so far, by the benchmark's rule."""

    def __init__(self, report: Report, dial: DataDial, file: AnswersFile) -> None:
        spec = SPECS[dial.name]
        self.report, self.file, self.rule, self.headline = report, file, RULES[spec.rule], spec.headline
        self.profile, self.questions = dial.profile or "ours", {question.name: question for question in opened(dial).questions}
        self.began, self.first, self.marked, self.sum = time.monotonic(), 0, 0, 0.0

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Say it; questions that were answered before count for the score, not for the rate."""
        self.first = self.first or self.file.kept
        for row in self.file.found[self.marked :]:
            question = self.questions[row.sample_id]
            self.sum += self.rule(reply_of(row), question.references, self.profile, question.asked).score
            self.marked += 1
        rate = (done - self.first) / max(time.monotonic() - self.began, 1e-9)
        score = f", {self.headline} {self.sum / self.marked:.3f}" if self.marked else ""
        self.report(stage, done, total, f"{rate:.2g}/s, {total - done} left{score}")


def reply_of(row: Prediction) -> str:
    """What was written, or the letter of the option that was chosen."""
    return row.said.text if isinstance(row.said, Written) else row.answer.options[row.said.prediction]  # type: ignore[union-attr]  # no boxes here


def is_one(dial: DataDial) -> bool:
    """Whether a data option is a benchmark."""
    return dial.name in SPECS


def ask(
    x: Experiment, vlm: Vlm, examples: Examples, dial: DataDial, section: EvaluationSection, run_dir: Path, name: str, report: Report
) -> list[Prediction]:
    """What the arm answers, of which only what is not in `answers/<name>.jsonl` is asked; the predictions follow from that file."""
    file = AnswersFile(run_dir / "answers" / f"{name}.jsonl", digest(x, vlm, examples, section, run_dir), examples)
    rows = asking.ask(vlm, examples, examples.encoder.readout, section, name, Running(report, dial, file), part=file)
    file.add(rows)  # ways that do not go in order keep none as they go
    return rows


def digest(x: Experiment, vlm: Vlm, examples: Examples, section: EvaluationSection, run_dir: Path) -> str:
    """Of all that answers depend on beside the questions: bytes of weights, processor, prompt, what becomes of pictures, how it is asked."""
    kept = contract.of_base(contract.describe(replace(x, evaluation=section), vlm, examples.encoder, examples.encoder.readout))
    weights = [file_hash(path) for path in sorted((run_dir / "adapter").glob("*.safetensors"))] if trains(x) else []
    seed = x.seed if examples.encoder.prompt.image_order is ImageOrder.random else None
    return values_hash([kept, weights, seed, section.shared_prefix], 32)


def mark(dial: DataDial, name: str, examples: Examples, reasons: Sequence[str], rows: list[Prediction], run_dir: Path) -> dict[str, float]:
    """Write `evaluations/<name>.json`; return its numbers as `<name>/<metric>`. reasons: why records were left out, of which some are questions."""
    asked = set(examples.split.sample_ids)
    untaken = {question.name: why(question.name, reasons) for question in opened(dial).questions if question.name not in asked}
    found = marks.result(dial, {row.sample_id: reply_of(row) for row in rows}, untaken)
    del found["rows"]
    return keep(found | {"cut": cut_share(rows), "prompt": shown(examples)}, run_dir, name)


def keep(found: dict[str, Any], run_dir: Path, name: str) -> dict[str, float]:
    """Write what a benchmark comes to as `evaluations/<name>.json`; return its numbers as `<name>/<metric>`."""
    write_atomically(run_dir / "evaluations" / f"{name}.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    cut = {} if found["cut"] is None else {"cut": found["cut"]}
    sure = {key: value for key, value in found.get("confidence", {}).items() if key != "n"}
    numbers = {**found["metrics"], **cut, **sure, "n": float(found["n"]), "rule_version": float(found["rule"]["version"])}
    return {f"{name}/{metric}": value for metric, value in numbers.items()}


def why(name: str, reasons: Sequence[str]) -> str:
    """Why a question could not be asked of this checkpoint."""
    told = f"dev sample {name} is left out"
    return next((reason for reason in reasons if reason.endswith(told)), "this checkpoint cannot take it")


def cut_share(rows: list[Prediction]) -> float | None:
    """Of written replies the share that `evaluation.max_new_tokens` cut off; None where an option is chosen."""
    written = [row.said for row in rows if isinstance(row.said, Written)]
    return sum(not one.ended for one in written) / len(written) if written else None


def shown(examples: Examples) -> dict[str, Any]:
    """How questions are put: a hash of the prompt with the chat template, and the first as the model reads it."""
    encoder = examples.encoder
    text = encoder.tokenizer.decode(list(examples.text(0).prompt_ids), skip_special_tokens=False)
    return {"hash": values_hash([prompt.describe(encoder.prompt), encoder.processor.chat_template]), "first": text}


def hold_against(dial: DataDial, name: str, rows: list[Prediction], texts: list[Generated], run_dir: Path) -> dict[str, float]:
    """Put what was generated beside what was scored, question by question, into `evaluations/<name>.json` under `generate`.

    Replies go to `answers/<name>.generate.jsonl`. Returns `<name>/generate_<number>`: the headline by the same rule, `unparsed`, and `differ`,
    the share of questions that the two ways do not answer with the same option.
    """
    place, headline = run_dir / "evaluations" / f"{name}.json", SPECS[dial.name].headline
    found = json.loads(place.read_text(encoding="utf-8"))
    left_out = {one["id"]: one["reason"] for one in found["left_out"]}
    scored = {row["id"]: row for row in marks.result(dial, {row.sample_id: reply_of(row) for row in rows}, left_out)["rows"]}
    generated = marks.result(dial, {text.sample_id: text.text for text in texts}, left_out)
    pairs = [(scored[row["id"]], row) for row in generated["rows"]]
    differing = [row["id"] for one, row in pairs if one["read_as"] != row["read_as"]]
    right = {"both": (1, 1), "score_only": (1, 0), "generate_only": (0, 1), "neither": (0, 0)}
    counts = {key: sum((one["score"], row["score"]) == each for one, row in pairs) for key, each in right.items()}
    numbers = {headline: generated["metrics"][headline], "unparsed": generated["unparsed"], "differ": len(differing) / len(pairs)}
    found["generate"] = {**numbers, "right": counts, "differing": differing}
    lines = (json.dumps({"id": text.sample_id, "reply": text.text}) + "\n" for text in texts)
    write_atomically(run_dir / "answers" / f"{name}.generate.jsonl", "".join(lines))
    write_atomically(place, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return {f"{name}/generate_{key}": value for key, value in numbers.items()}
