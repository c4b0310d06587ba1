"""The study of product questions: families beside their own bases, random weights marked, the published figures beside ours."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import blank_figures
import pytest
from synthetic_runs import write_run, write_sweep
from test_text_answers import written

from lab.model.identity import has_random_weights, mark_random
from lab.report.published import rows_of
from lab.report.select_runs import choose
from lab.report.write import write_report
from lab.statistics.metrics import KINDS
from lab.store import runs

ROOT = Path(__file__).parents[1]
BLIP = "Salesforce/blip-vqa-base"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report of four families, two arms each: BLIP's base is the published one, and the others' weights are random."""
    folder, names = tmp_path_factory.mktemp("study"), []
    for place, model in enumerate(("blip_vqa", "qwen2_5_vl_7b", "tiny", "vit_gpt2")):
        for trained in (False, True):
            names.append(f"{model}{trained:d}")
            overrides = {"model.name": model, "model.path": BLIP if model == "blip_vqa" else f"cache/{model}", "tracking.enabled": False}
            overrides |= {} if trained else {"lora.name": "none", "lora.r": 0, "trainer.max_steps": 0}
            rows = written(0.2 + 0.1 * place + 0.3 * trained, ())
            facts = {"asked": {}} | ({} if model == "blip_vqa" else {"random_weights": True})
            write_run(folder / "runs", names[-1], overrides, rows, rows, facts=facts, curve=trained)
    sweep = write_sweep(folder / "runs", "study", names, ["model.name", "lora.name", "lora.r"])
    runs.save_sweep(folder / "runs", replace(sweep, name="product_vqa"))
    with pytest.MonkeyPatch.context() as patch:
        blank_figures.use(patch)
        return (write_report(choose(folder / "runs", "study"), folder / "out") / "report.md").read_text()


def section(page: str, title: str) -> str:
    return page.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_random_weights_are_marked_wherever_their_arm_is_named(page: str) -> None:
    for line in page.splitlines():
        if "model=tiny" in line and line.startswith("| `") and "python -m" not in line:
            assert "(random weights)" in line, line
    assert "model=blip_vqa lora=llm" in page and "(random weights)" not in section(page, "Provenance").partition("blip_vqa0")[2].partition("\n")[0]


def test_each_trained_arm_meets_its_own_base(page: str) -> None:
    claims = section(page, "What may be claimed")
    assert "Each trained arm is compared with its own base as it is, too." in claims
    for model in ("blip_vqa", "qwen2_5_vl_7b", "tiny", "vit_gpt2"):
        pairs = [line for line in claims.splitlines() if line.startswith("| `") and line.count(f"model={model} ") == 2]
        assert len(pairs) == 1, model


def test_the_published_figures_stand_beside_ours_or_why_there_are_none(page: str) -> None:
    table = section(page, "Ours and the published")
    assert "/ 40.9 |" in table and "– / 3.0 |" in table
    assert "not run here: the arm of this sweep has a small checkpoint of its family with random weights, not Qwen/Qwen2.5-VL-7B-Instruct" in table
    assert "no arm of this sweep repeats it" in table


def test_what_was_published_is_of_metrics_and_options_that_there_are() -> None:
    options = {path.stem for path in (ROOT / "conf" / "model").glob("*.yaml")}
    rows = rows_of("product_vqa")
    assert len(rows) == 6 and rows_of("rank") == []
    for row in rows:
        assert row["trained"] in ("yes", "no") and {name for name in row if name in KINDS["text"].metrics} >= {"exact_match", "bartscore"}
    assert {row["model"] for row in rows} & options


def test_a_checkpoint_says_that_its_weights_were_drawn(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert not has_random_weights(str(tmp_path))
    mark_random(tmp_path)
    assert has_random_weights(str(tmp_path)) and json.loads((tmp_path / "config.json").read_text())["model_type"] == "bert"
