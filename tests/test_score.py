"""lab score: stored answers scored by a model, once, beside the predictions; the report, the record and MLflow have it then."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_runs import write_run, write_sweep
from test_learned_metrics import BART
from test_text_answers import row, written

from lab import score
from lab.answers import learned, predictions
from lab.report.select_runs import choose
from lab.report.write import write_report
from lab.statistics.comparing import compare
from lab.store import runs

pytestmark = pytest.mark.usefixtures("blank_figures")


def encoder(folder: Path, seed: int) -> Path:
    """A random BERT of 2 blocks that knows the letters."""
    import torch
    import transformers

    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(words))
    sizes = {"vocab_size": len(words), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformers.BertModel(transformers.BertConfig(**sizes, max_position_embeddings=32)).save_pretrained(folder)
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("encoders")
    return encoder(folder / "one", 0), encoder(folder / "other", 1)


@pytest.fixture
def runs_dir(tmp_path: Path, quiet_root_logger: None) -> Path:
    """A sweep of two arms that have answered in words."""
    for name, rank, skill in (("low", 2, 0.3), ("high", 8, 0.95)):
        overrides = {"lora.r": rank, "tracking.enabled": False}
        write_run(tmp_path / "runs", name, overrides, written(skill, ()), facts={"asked": {}})
    write_sweep(tmp_path / "runs", "ranks", ["low", "high"], ["lora.r"])
    return tmp_path / "runs"


def scored(runs_dir: Path, *words: str) -> int:
    return score.main([*words, "--runs-dir", str(runs_dir)])


def place(runs_dir: Path, run: str, metric: str) -> Path:
    return learned.file(runs_dir / run / "predictions" / "dev.parquet", metric)


@pytest.mark.usefixtures("blank_figures")
def test_a_sweep_is_scored_once_and_reports_and_records_have_it(runs_dir: Path, models: tuple[Path, Path], capsys) -> None:
    before = {path: path.read_bytes() for path in runs_dir.rglob("dev.parquet")}
    assert scored(runs_dir, "sweep ranks", "--metric", "cosine", "--model", str(models[0])) == 0
    assert scored(runs_dir, "--run", "low", "--metric", "bertscore", "--num-layers", "1", "--model", str(models[0])) == 0
    told = capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before, "answers are as they were"
    tables = [predictions.read(runs_dir / run / "predictions" / "dev.parquet") for run in ("low", "high")]
    means = [float(table.cosine.mean()) for table in tables]
    assert means[0] < means[1] and f"dev/cosine {means[1]:.4f} [" in told
    numbers = runs.load(runs_dir, "high").metrics
    assert numbers["dev/cosine_low"] < numbers["dev/cosine"] == means[1] < numbers["dev/cosine_high"]
    assert compare(*tables, "cosine").has_interval
    origin = learned.origin(place(runs_dir, "low", "bertscore"))
    assert origin.options == {"num_layers": 1, "part": "f1"} and len(origin.weights) == 64 and "transformers" in origin.versions
    page = (write_report(choose(runs_dir, "ranks"), runs_dir.parent / "out") / "report.md").read_text()
    assert f"| {means[1]:.3f} [" in page and "cosine by one (weights " in page and "Not computed: bartscore." in page
    assert "cosine [95 %], p" in page and "Holm's correction over the 4 tests" in page


@pytest.mark.skipif(not BART.is_dir(), reason="the tiny BART lies in ../shared")
def test_bartscore_stands_beside_that_of_a_reference_with_itself(runs_dir: Path) -> None:
    assert scored(runs_dir, "low", "--metric", "bartscore", "--model", str(BART)) == 0
    numbers = runs.load(runs_dir, "low").metrics
    assert numbers["dev/bartscore"] < 0 > numbers["dev/bartscore_of_reference"]
    page = (write_report(choose(runs_dir, run_ids=["low"]), runs_dir.parent / "out") / "report.md").read_text()
    assert "| reference with itself, nats |" in page.replace("**", "") and f"{numbers['dev/bartscore_of_reference']:.3f}" in page


def test_scores_stand_until_they_are_replaced_and_go_stale_with_the_answers(runs_dir: Path, models: tuple[Path, Path], capsys, caplog) -> None:
    asked = ("high", "--metric", "cosine", "--model")
    path = place(runs_dir, "high", "cosine")
    assert scored(runs_dir, *asked, str(models[0])) == 0
    written_at = path.stat().st_mtime_ns
    assert scored(runs_dir, *asked, str(models[0])) == 0 and path.stat().st_mtime_ns == written_at
    assert scored(runs_dir, *asked, str(models[1])) == 2 and "Add --replace to put these in its place." in capsys.readouterr().err
    assert path.stat().st_mtime_ns == written_at
    assert scored(runs_dir, *asked, str(models[1]), "--replace") == 0 and path.stat().st_mtime_ns != written_at
    predictions.rewrite(runs_dir / "high" / "predictions" / "dev.parquet", "post", "qwen")
    assert "cosine" not in predictions.read(runs_dir / "high" / "predictions" / "dev.parquet").columns
    assert scored(runs_dir, *asked, str(models[0])) == 0, "other answers are scored again without a word of the user's"
    assert "cosine" in predictions.read(runs_dir / "high" / "predictions" / "dev.parquet").columns


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["low", "--metric", "cosine", "--num-layers", "2"], "--num-layers: cosine has no such option. Leave it out."),
        (["low", "--metric", "bartscore"], "Give its folder."),
        (["none", "--metric", "cosine"], "--run none: there is no such run."),
        (["low", "--metric", "cosine", "--model", "no/such/folder"], "Give the folder of a checkpoint in safetensors."),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(runs_dir: Path, capsys, words: list[str], sentence: str) -> None:
    assert scored(runs_dir, *words) == 2 and sentence in capsys.readouterr().err


@pytest.mark.usefixtures("blank_figures")
def test_golds_that_a_rule_takes_and_answers_of_one_kind_are_counted(tmp_path: Path) -> None:
    golds, said = ["A", "3.14", "t-shirt", "dark green", "yes", "no"], ["a", "314", "tshirt", "green", "yes", ""]
    rows = [row(i, text, (gold,), post="llava") for i, (text, gold) in enumerate(zip(said * 5, golds * 5, strict=True))]
    write_run(tmp_path / "runs", "one", {}, rows, facts={"asked": {}})
    page = (write_report(choose(tmp_path / "runs", run_ids=["one"]), tmp_path / "out") / "report.md").read_text()
    form = next(line for line in page.splitlines() if line.startswith("| lora") or "| 0.83 |" in line)
    assert "| 0.83 | 83.3 | 83.3 | 16.7 |" in form or "| 0.83 | 83.3 | 83.3 | 16.7 |" in page
    assert "| (answered yes or no) (n = 10) [95 %] |" in page and "| 50.0 [" in page and "| `llava` |" in page and "| 5 | 0 | 5 |" in page
