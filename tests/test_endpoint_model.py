"""`model=endpoint`: a server is asked benchmarks, pays for nothing twice whatever goes wrong, and leaves a record like any arm's."""

from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import benchmark_twins as twins
import llm_server
import pytest
import synthetic_runs
from PIL import Image

from lab import doctor, evaluate, plan, predict, train
from lab.answers import predictions
from lab.config import Prices
from lab.llm import asking
from lab.llm.config import Limits, Llm, Service
from lab.prompt import option
from lab.records import Choice, Picture, Sample, Turn
from lab.report import rescoring
from lab.report.__main__ import main as report
from lab.run import asked_endpoint
from lab.store import runs

KEY = "sk-not-to-be-seen"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between attempts are short; there is a key."""
    monkeypatch.setattr(asking.Waits, "drawn", asking.tenacity.wait_random(0, 0.05))
    monkeypatch.setattr(asking.Waits, "apart", asking.tenacity.wait_random(0, 0.02))
    monkeypatch.setenv("ENDPOINT_KEY", KEY)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    for name in ("ai2d", "mmmu"):
        twins.seeded(folder, name, 8)
    return folder


def command(sets: Path, folder: Path, address: str, *words: str) -> int:
    """`lab evaluate model=endpoint`."""
    keys = ["model=endpoint", f"endpoint.base_url={address}", "endpoint.model=m", f"evaluation.also_root={sets}", f"tracking.cache_dir={folder}/c"]
    also = [] if any(word.startswith("evaluation.also=") for word in words) else ["evaluation.also=[ai2d,mmmu]"]
    return evaluate.main([*keys, *also, "tracking.enabled=false", *words, "--runs-dir", f"{folder}/runs"])


def left(folder: Path) -> dict[str, bytes]:
    """Files of answers and results of the one run, by name."""
    (record,) = (folder / "runs").glob("*/run.json")
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in sorted(record.parent.glob("*/*")) if path.name != ".lock"}


def paid(log: Path) -> list[str]:
    """The requests that were answered, by what was sent."""
    return [entry["text"] + entry["picture"] for entry in llm_server.read(log) if entry["paid"] and entry["fault"] != "cut"]


def test_a_server_is_asked_once_whatever_it_does_and_its_record_is_an_arms(sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    for folder in (calm, rough):
        folder.mkdir()
    with llm_server.running(tmp_path) as (address, log):
        assert command(sets, calm, address, "endpoint.api_key_env=ENDPOINT_KEY") == 0
        assert {entry["authorization"] for entry in llm_server.read(log)} == {f"Bearer {KEY}"}
        asked = len(paid(log))
        assert asked == len(set(paid(log))) and command(sets, calm, address, "endpoint.api_key_env=ENDPOINT_KEY") == 0 and len(paid(log)) == asked
    with llm_server.running(tmp_path, {"first": {"500": 2, "429": 1, "cut": 1, "html": 1, "402": 1}}) as (address, log):
        assert command(sets, rough, address, "endpoint.workers=1") == 3 and "quota is used up" in capsys.readouterr().err
        assert command(sets, rough, address) == 0 and len(paid(log)) == len(set(paid(log))) == asked
    assert {name: text for name, text in left(calm).items() if "answers" in name or name.endswith(".json")} == {
        name: text for name, text in left(rough).items() if "answers" in name or name.endswith(".json")
    }
    (run,) = runs.all_runs(calm / "runs")
    folder, results = runs.folder(calm / "runs", run.identity), rescoring.stored(runs.folder(calm / "runs", run.identity))
    table = predictions.read(runs.own_predictions(run, folder, "dev"))
    lines = [json.loads(line) for line in (folder / "answers" / "ai2d.jsonl").read_text().splitlines()]
    assert (run.status, table.kind, table.text.tolist()) == ("FINISHED", "replied", [line["reply"] for line in lines])
    assert {line["reply"] for line in lines} == {"(A)"} and all([*line] == ["id", "reply", "scores", "picture"] for line in lines)
    for name, headline in (("ai2d", "accuracy"), ("mmmu", "accuracy")):
        assert run.metrics[f"{name}/{headline}"] == results[name]["metrics"][headline] and results[name]["profile"] == "ours"
    assert results["ai2d"]["unparsed"] == 0 and run.facts["endpoint"]["model"] == "m"
    assert not any(KEY.encode() in path.read_bytes() for path in calm.rglob("*") if path.is_file())
    capsys.readouterr()
    sys.argv = ["lab.report", "--runs-dir", f"{calm}/runs", "--out", f"{calm}/report"]
    assert report() == 0 and "1 of 1 arms finished" in capsys.readouterr().out
    assert "letter_ai2d" in (calm / "report" / "all" / "report.md").read_text()
    drawn = synthetic_runs.Questions.draw("dev", 40)
    synthetic_runs.write_run(calm / "runs", "aaaaaaaaaa", {"lora.r": 2}, synthetic_runs.answers(drawn, 0.5))
    assert report() == 0
    page = (calm / "report" / "all" / "report.md").read_text()  # of arms that answer in several forms
    assert "ANOTHER FORM" in page and "letter_ai2d" in page and "AUROC" in page


def test_a_judge_has_spoken_before_the_trackers_are_done(sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    delivered: list[dict[str, float]] = []

    class Watched(asked_endpoint.BackgroundSync):
        def __exit__(self, *error: Any) -> None:
            delivered.extend(run.metrics for run in runs.all_runs(tmp_path / "runs"))
            super().__exit__(*error)

    monkeypatch.setattr(asked_endpoint, "BackgroundSync", Watched)
    with llm_server.running(tmp_path) as (address, _):
        judge = [f"evaluation.judge.base_url={address}", "evaluation.judge.model=j", "evaluation.also=[ai2d]"]
        assert command(sets, tmp_path, address, *judge) == 0
    assert delivered[-1]["ai2d/judge_n"] == 8


def test_how_sure_a_server_was_is_told_where_it_tells_it(sets: Path, tmp_path: Path) -> None:
    """Each letter has 7 of 9 parts of what is told of letters; of a server that refuses to tell, the same replies without."""
    numbers = {}
    for name, faults in {"told": {}, "silent": {"no logprobs": 1.0}}.items():
        with llm_server.running(tmp_path, faults) as (address, log):
            assert command(sets, tmp_path / name, address, "evaluation.also=[ai2d]", "endpoint.workers=1") == 0
            assert len(paid(log)) == 8
            log.unlink()
        (run,) = runs.all_runs(tmp_path / name / "runs")
        folder = runs.folder(tmp_path / name / "runs", run.identity)
        numbers[name] = run.metrics, rescoring.stored(folder)["ai2d"], (folder / "answers" / "ai2d.jsonl").read_text()
    metrics, found, lines = numbers["told"]
    assert json.loads(lines.splitlines()[0])["scores"]["B"] == pytest.approx(math.log(0.2))
    assert metrics["ai2d/confidence"] == pytest.approx(7 / 9) and found["confidence"]["n"] == 8
    assert metrics["ai2d/ece"] == pytest.approx(abs(metrics["ai2d/accuracy"] - 7 / 9))
    assert rescoring.rescore(tmp_path / "told" / "runs", [], None, tmp_path / "out")[1] == 1
    assert rescoring.stored(next((tmp_path / "told").glob("runs/*/run.json")).parent)["ai2d"]["confidence"] == found["confidence"]
    metrics, found, lines = numbers["silent"]
    assert "ai2d/ece" not in metrics and "confidence" not in found and "the server tells none" in found["remarks"][-1]


def test_a_limit_stops_before_it_is_passed_and_the_same_command_goes_on(sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prices = ["endpoint.prices.input_per_million=1000", "endpoint.prices.output_per_million=1000", "evaluation.also=[ai2d]"]
    with llm_server.running(tmp_path) as (address, log):
        assert command(sets, tmp_path, address, "endpoint.budget=1") == 2 and "endpoint.prices" in capsys.readouterr().err
        assert command(sets, tmp_path, address, *prices, "endpoint.budget=1") == 3 and "endpoint.budget=1" in capsys.readouterr().err
        few = len(paid(log))
        spent = sum(entry["prompt_tokens"] + entry["completion_tokens"] for entry in llm_server.read(log)) / 1000
        (run,) = runs.all_runs(tmp_path / "runs")
        assert 0 < few < 8 and spent <= 1 and run.status == "FAILED" and not left(tmp_path) and not run.metrics
        assert command(sets, tmp_path, address, *prices, "endpoint.budget=99") == 0 and len(paid(log)) == len(set(paid(log)))
        assert command(sets, tmp_path, address, *prices, "endpoint.api_key_env=NO_SUCH_KEY") == 2 and "not set" in capsys.readouterr().err
    assert command(sets, tmp_path, "http://127.0.0.1:9/v1", "evaluation.also=[ai2d]") == 2 and "Is the server running?" in capsys.readouterr().err
    with llm_server.running(tmp_path, {"bad": 0.4}) as (address, _):
        assert command(sets, tmp_path, address, "evaluation.also=[ai2d]") == 1 and "have no reply yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (train.main, ["model=endpoint"]), (train.main, ["model=endpoint", "seed=1,2", "-m"]), (plan.main, ["model=endpoint"]),
        (doctor.main, ["model=endpoint", "tracking.enabled=false"]), (predict.main, ["{run}", "--runs-dir", "{runs}", "q.jsonl"]),
    ],
    ids=["train", "sweep", "plan", "doctor", "predict"],
)  # fmt: skip
def test_what_needs_weights_names_the_option(act: Any, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    record = runs.Run("0123456789", "x", {"model": {"name": "endpoint", "family": "endpoint"}}, "", status=runs.FINISHED)
    runs.save(tmp_path, record)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lab", *(word.format(run=record.identity, runs=tmp_path) for word in words)])
    monkeypatch.setattr("lab.data.load", lambda *given: pytest.fail("data are loaded"))
    try:
        code = act()
    except SystemExit as ended:
        code = ended.code
    told = capsys.readouterr()
    assert code in (1, 2) and "model=endpoint" in told.err + told.out and "lab evaluate model=endpoint" in told.err + told.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["lora.r=8"], "lora.r: model=endpoint has no weights here"), (["evaluation.batch_size=2"], "evaluation.batch_size"),
        (["evaluation.also=[ai2d,easy_vqa]"], "data=easy_vqa: model=endpoint is asked benchmarks"),
        (["endpoint.api_key_env=sk-secret"], "what was given is not shown"),
    ],
)  # fmt: skip
def test_keys_that_a_server_does_not_read_are_refused(words: list[str], told: str, sets: Path, tmp_path: Path, capsys) -> None:
    assert command(sets, tmp_path, "http://127.0.0.1:9/v1", *words) == 2
    error = capsys.readouterr().err
    assert told in error and "sk-secret" not in error


def test_pictures_are_sent_whole_and_in_their_places() -> None:
    """A file as it is, unless it is turned or none that servers take; a mention in the words is where the picture stands."""
    files = {}
    for kind in ("PNG", "BMP"):
        buffer = io.BytesIO()
        Image.new("RGB", (900, 40), "red").save(buffer, kind)
        files[kind] = buffer.getvalue()
    pictures = tuple(Picture(kind, data) for kind, data in files.items())
    parts = ("Is ", 1, " left of ", 0, "?")
    sample = Sample("a", "", pictures, Choice.truth(True), "a", "a", None, (Turn("user", parts),))
    made = asked_endpoint.request(sample, option("conversation"), 0, Service(Llm("http://h/v1", "m"), Limits()))
    assert [part if isinstance(part, str) else part.mime for part in made.parts] == ["Is", "image/png", "left of", "image/png", "?"]
    assert made.pictures[1].data == files["PNG"] and made.pictures[0].size == (900, 40) and made.at_most().cost(Prices()) == 0
