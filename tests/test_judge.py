"""A judge beside the exact rule: no verdict is paid for twice, no number stands for what was not judged, and a person may check it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import benchmark_twins as twins
import llm_server
import pytest

from lab import score
from lab.config import Endpoint, Prices
from lab.data.benchmarks import marks
from lab.data.benchmarks.questions import Question
from lab.errors import ConfigError, DataError
from lab.host.progress import silent
from lab.judge import person, prompt, verdicts
from lab.llm import asking
from lab.statistics.marking import Asked

REPLIES = {"200": "yes", "201": "It is red.", "202": "perhaps"}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between attempts are short."""
    monkeypatch.setattr(asking.Waits, "drawn", asking.tenacity.wait_random(0, 0.05))
    monkeypatch.setattr(asking.Waits, "apart", asking.tenacity.wait_random(0, 0.02))


@pytest.fixture
def gqa(tmp_path: Path) -> Path:
    """Three questions, and a file of replies of which the rule takes the first alone, and the judge too."""
    (tmp_path / "replies.jsonl").write_text("".join(json.dumps({"id": key, "reply": said}) + "\n" for key, said in REPLIES.items()))
    return twins.parquet(tmp_path / "gqa", "gqa")


def command(root: Path, address: str, *words: str, out: str = "out.json") -> int:
    """`lab score` with a judge."""
    keys = [f"evaluation.judge.base_url={address}", "evaluation.judge.model=m", f"tracking.runs_dir={root.parent}/runs", *words]
    files = ["--answers", str(root.parent / "replies.jsonl"), "--out", str(root.parent / out)]
    return score.main(["data=gqa", f"data.root={root}", *keys, *files])


def written(root: Path, out: str = "out.json") -> dict[str, Any]:
    return json.loads((root.parent / out).read_text())


def test_verdicts_are_bought_once_whatever_the_server_does(gqa: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Faults, replies that are no verdict, a second command, another result of the same replies."""
    with llm_server.running(gqa.parent, {"first": {"500": 1, "unsure": 1, "429": 1, "cut": 1, "no usage": 1}}) as (address, log):
        assert command(gqa, address) == 0
        paid = [entry["text"] for entry in llm_server.read(log) if entry["paid"] and entry["fault"] not in ("unsure", "cut")]
        assert len(paid) == len(set(paid)) == 3 and "gold" not in paid[0]
        first, asked = written(gqa), len(llm_server.read(log))
        assert command(gqa, address) == 0 and command(gqa, address, out="again.json") == 0 and len(llm_server.read(log)) == asked
    assert written(gqa) == written(gqa, "again.json") == first
    told = first["judge"]
    assert (told["n"], told["waiting"], told["mean"], told["agreement"]) == (3, 0, pytest.approx(1 / 3), 1.0) and told["mean_low"] < 1 / 3
    assert first["metrics"]["accuracy"] == pytest.approx(1 / 3) and "mean 0.3333" in capsys.readouterr().out
    lines = [json.loads(line) for line in (gqa.parent / "out.verdicts.jsonl").read_text().splitlines()]
    assert [line["judge"] for line in lines] == [1, 0, 0] and lines[0]["verdict"] == "It says so.\nScore: 1\n"


@pytest.mark.parametrize("fault", ["402", "quota"])
def test_no_money_is_no_number_and_stops_at_once(gqa: Path, fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    with llm_server.running(gqa.parent, {fault: 1.0}) as (address, log):
        assert command(gqa, address, "evaluation.judge.workers=1") == 3 and len(llm_server.read(log)) == 1
    found = written(gqa)
    judge = found["judge"]
    assert (judge["n"], judge["mean"], judge["agreement"]) == (0, None, None) and "quota is used up" in judge["stopped"]
    assert "mean" not in capsys.readouterr().out and found["metrics"]["accuracy"] == pytest.approx(1 / 3)


def test_a_judge_that_is_away_or_says_nothing_costs_nothing_and_answers_wait(gqa: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(gqa, "http://127.0.0.1:9/v1") == 2 and "Is the server running?" in capsys.readouterr().err
    assert written(gqa)["judge"] | {"stopped": ""} == {
        "model": "m", "prompt_version": 1, "waiting": 3, "n": 0, "mean": None, "agreement": None, "stopped": "",
    }  # fmt: skip
    with llm_server.running(gqa.parent, {"unsure": 1.0}) as (address, log):
        assert command(gqa, address) == 1 and len(llm_server.read(log)) == 3 * verdicts.TRIES and written(gqa)["judge"]["n"] == 0
    with llm_server.running(gqa.parent) as (address, _):
        assert command(gqa, address) == 0 and written(gqa)["judge"]["n"] == 3


def test_a_budget_is_kept_and_a_higher_one_goes_on(gqa: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prices = ["evaluation.judge.prices.input_per_million=1000", "evaluation.judge.prices.output_per_million=1000"]
    with llm_server.running(gqa.parent) as (address, log):
        assert command(gqa, address, "evaluation.judge.budget=1") == 2 and "evaluation.judge.prices" in capsys.readouterr().err
        assert command(gqa, address, *prices, "evaluation.judge.budget=1") == 3
        spent = sum(entry["prompt_tokens"] + entry["completion_tokens"] for entry in llm_server.read(log)) / 1000
        part = written(gqa)["judge"]
        assert 0 < spent <= 1 and 0 < part["n"] < 3 and part["waiting"] == 3 - part["n"] and 0 <= part["mean"] <= 1
        assert "evaluation.judge.budget=1" in capsys.readouterr().err
        assert command(gqa, address, *prices, "evaluation.judge.budget=9") == 0 and len(llm_server.read(log)) == 3


def test_a_person_marks_a_subset_and_both_are_held_against_it(gqa: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with llm_server.running(gqa.parent) as (address, log):
        assert command(gqa, address) == 0
        table = gqa.parent / "out.marks.csv"
        rows = list(csv.DictReader(table.read_text().splitlines()))
        assert [row["id"] for row in rows] == list(REPLIES) and not any(row["mark"] for row in rows) and "judge" not in rows[0]

        def filled(*given: str) -> None:
            with table.open("w", newline="") as file:
                writer = csv.DictWriter(file, rows[0])
                writer.writeheader()
                writer.writerows({**row, "mark": mark} for row, mark in zip(rows, given, strict=True))

        filled("1", "1", "")
        assert command(gqa, address) == 0 and len(llm_server.read(log)) == 3
        found = written(gqa)["judge"]
        assert (found["n_person"], found["agreement_with_person"], found["exact_agreement_with_person"]) == (2, 0.5, 0.5)
        rows[0]["reply"] = "another"
        filled("0", "", "0")
        assert command(gqa, address) == 0 and "1 marks are of other" in capsys.readouterr().err
        assert written(gqa)["judge"]["agreement_with_person"] == 1.0
        filled("2", "", "")
        with pytest.raises(DataError, match="row 2: mark is '2'; 0, 1 or nothing is legal"):
            person.marks_of(table, [])


@pytest.mark.parametrize(
    ("reply", "read"),
    [("Score: 1", 1), ("why\nScore: 0\n\n", 0), ("Score: 1\r\n", 1), ("Score: 1.", None), ("score: 1", None), ("Score: 1\nor not", None),
     ("Score: 10", None), ("Score: 0.5", None), ("**Score: 1**", None), ("", None), ("1", None), ("The Score: 1", None)],
)  # fmt: skip
def test_only_the_last_line_is_a_verdict(reply: str, read: int | None) -> None:
    assert prompt.score(reply) == read


def test_the_prompt_holds_what_is_asked_and_a_verdict_is_kept_under_all_of_it(tmp_path: Path) -> None:
    """Of a multiple choice the option with its letter; an answer in braces stays as it is; not the server, nor who asks."""
    choice = Question("1", "Which? A. cat B. dog", (), ("B",), Asked(("cat", "dog")), "p", (), right=1)
    text = prompt.text(choice, "{correct} {0}")
    assert "<correct>\nB. dog\n</correct>" in text and "<answer>\n{correct} {0}\n</answer>" in text
    here, there = (verdicts.service_of(Endpoint(f"http://{host}/v1", "m")) for host in ("a", "b"))
    other = verdicts.service_of(Endpoint("http://a/v1", "n"))
    keys = {verdicts.request(*each).key for each in ((choice, "B", here), (choice, "A", here), (choice, "B", other))}
    assert len(keys) == 3 and verdicts.request(choice, "B", there).key in keys
    body = verdicts.request(choice, "B", here).body()
    assert body["messages"] == [{"role": "user", "content": prompt.text(choice, "B")}] and body["temperature"] == 0 and "seed" not in body


def test_what_cannot_be_is_refused_before_anything_is_read(gqa: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    wrong = {
        "evaluation.judge.base_url=ftp://x": "it must begin with http", "evaluation.judge.model=null": "evaluation.judge.model: no model is named",
        "evaluation.judge.api_key_env=JUDGE_KEY": "evaluation.judge.api_key_env=JUDGE_KEY: this variable is not set",
        "evaluation.judge.api_key_env=sk-1": "takes the NAME", "evaluation.judge.workers=0": "at least 1",
        "evaluation.judge.base_url=null": "evaluation.judge.model: without evaluation.judge.base_url nobody is asked",
    }  # fmt: skip
    for word, says in wrong.items():
        assert command(gqa, "http://h/v1", word) == 2 and says in capsys.readouterr().err, word
    with pytest.raises(ConfigError, match="money is counted by prices"):
        verdicts.mark(Endpoint("http://h/v1", "m", budget=1.0, prices=Prices(1.0)), [], [], gqa, gqa / "x", silent)
    nlvr = ["data=nlvr", f"data.root={gqa}", "evaluation.judge.base_url=http://h/v1", "evaluation.judge.model=m"]
    assert score.main([*nlvr, "--answers", "a", "--out", "o.json"]) == 2 and "one of two words" in capsys.readouterr().err


def test_verdicts_are_read_back_whatever_a_reply_holds(gqa: Path) -> None:
    """A line separator of Unicode is no end of a line of JSON Lines."""
    questions = marks.opened(marks.dial_of(["data=gqa", f"data.root={gqa}"])).questions
    rows = [{"id": one.name, "reply": f"yes\u2028{one.name}\x85\v", "score": 1.0} for one in questions]
    place = gqa / "gqa"
    verdicts.keep(rows, [1] * len(rows), ["Score: 1"] * len(rows), verdicts.kept_at(place))
    assert verdicts.held_anew({"mean": 0.5}, questions, rows, place, write=False)["mean"] == 1.0


def test_rows_and_questions_are_those_of_the_rule(gqa: Path) -> None:
    """Opened once, and marked as without a judge."""
    dial = marks.dial_of(["data=gqa", f"data.root={gqa}"])
    assert marks.result(dial, REPLIES, found=marks.opened(dial)) == marks.result(dial, REPLIES)
