"""`evaluation.also` and `lab.evaluate`: a finished arm asked data of every kind of answer, each in its own prompt and by its own metrics."""

from __future__ import annotations

import json
import time
from pathlib import Path

import drawn_kinds
import pytest

from lab import evaluate
from lab import run as running
from lab.answers import predictions
from lab.errors import ConfigError
from lab.report.select_runs import choose
from lab.report.write import write_report
from lab.store import runs

pytestmark = pytest.mark.usefixtures("nominal_costs")

SIZES = ("data.num_train=8", "data.num_minival=4", "data.num_dev=8")
SMALL = (
    "trainer.max_steps=2", "trainer.batch_size=4", "evaluation.verify=false", "evaluation.latency_examples=0", "tracking.enabled=false",
    "evaluation.zero_shot=true",
)  # fmt: skip


@pytest.fixture(scope="module")
def few_tokens():
    """Boxes of a model with random weights do not end by themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lab.config.evaluation.MOST_TOKENS", {"text": 4, "regions": 8})
        yield


@pytest.fixture(scope="module")
def asked(composer, tiny_folder, tmp_path_factory, few_tokens):
    """An arm on True/False statements that was asked words, a choice of other options, and boxes: its folder, and its record."""
    folder = tmp_path_factory.mktemp("asked")
    also = [
        f"questions path={drawn_kinds.words(folder)} as=colours", f"questions path={drawn_kinds.choices(folder)} as=red",
        f"boxes path={drawn_kinds.boxes(folder)}",
    ]  # fmt: skip
    places = (f"model.path={tiny_folder}", f"tracking.runs_dir={folder / 'runs'}", f"tracking.cache_dir={folder / 'cache'}")
    x = composer(*places, *SIZES, *SMALL, f"evaluation.also={json.dumps(also)}")
    return folder, running.run_alone(x, "command", time.time())


def test_each_kind_is_kept_and_scored_as_its_own(asked) -> None:
    folder, run = asked
    run_dir = runs.folder(folder / "runs", run.identity)
    kinds = {name: predictions.read(run_dir / "predictions" / f"{name}.dev.parquet").kind for name in ("pairs", "colours", "red", "boxes")}
    assert kinds == {"pairs": "choice", "colours": "text", "red": "choice", "boxes": "regions"}
    for name in ("colours/dev/exact_match", "red/dev/accuracy", "boxes/dev/mean_iou", "boxes/zero_shot/mean_iou", "colours/zero_shot/exact_match"):
        assert name in run.metrics
    facts = run.facts["also"]
    assert {name: facts[name]["prompt"]["name"] for name in facts} == {"colours": "question", "red": "question", "boxes": "boxes"}
    assert {"pairs": "choice"} | {name: facts[name]["answers"]["kind"] for name in facts} == kinds
    assert all(any(row.startswith("zero-shot") for row in facts[name]["baselines"]) for name in facts)


def test_the_report_has_a_table_with_intervals_for_each(asked, blank_figures, tmp_path: Path) -> None:
    page = (write_report(choose(asked[0] / "runs"), tmp_path) / "report.md").read_text()
    for name, column in {"colours": "exact match, % [95 %]", "red": "accuracy, % [95 %]", "boxes": "mean IoU"}.items():
        chapter = page.partition(f"Also asked: {name}")[2].partition("\n## ")[0]
        assert column in chapter and "zero-shot" in chapter and "What may be claimed" in chapter, chapter


def test_evaluate_asks_data_of_another_kind_as_also_does(asked, few_tokens) -> None:
    """The same predictions, under the contract of the adapter, whose own prompt and answers are not those of the question."""
    folder, run = asked
    run_dir = runs.folder(folder / "runs", run.identity)
    given = ["--run", run.identity, "--runs-dir", str(folder / "runs"), "--name", "boxes", "data=boxes", f"data.path={folder / 'boxes.jsonl'}"]
    assert evaluate.main(given) == 0
    files = ("predictions/boxes.dev.parquet", "evaluations/boxes.parquet")
    once, again = (predictions.rows(run_dir / file) for file in files)
    assert once == again
    facts = json.loads((run_dir / "evaluations" / "boxes.json").read_text())
    assert facts["prompt"]["name"] == "boxes" and not facts["contract_broken"]


def test_names_and_prompts_of_other_data(small, tmp_path: Path) -> None:
    path = drawn_kinds.words(tmp_path)
    wrong = {
        f"['questions path={path}','questions path={path}']": "would be asked twice.*as=other",
        f"['questions path={path} as=2']": "as=2 is no name",
        f"['questions path={path} prompt=qa']": "prompt=qa: it frames a statement, and data=questions has questions",
        f"['questions path={path} prompt=quest']": "Did you mean 'question'",
    }
    for also, message in wrong.items():
        with pytest.raises(ConfigError, match=message):
            running.check(small(f"evaluation.also={also}"))
