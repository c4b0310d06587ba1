"""lab score data=SET: replies of any origin marked without a model, the official marks of NLVR and NLVR2 among them."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import benchmark_twins as twins
import official_rules
import pytest

from lab import score
from lab.benchmark_specs import SPECS
from lab.data.benchmarks import marks
from lab.statistics.marking import PROFILES

SHARED = Path(__file__).parents[2] / "shared"
GOLD = {
    "gqa": ("yes", "red", "no"), "scienceqa": ("B", "C", "B"), "textvqa": ("stop", "two", "unanswerable"), "mmmu": ("B", "A", "3.5"),
    "seed": ("A", "D"), "mathvista": ("0", "1.2", "No"), "ai2d": ("C", "B", "A"), "chartqa": ("5%", "2019", "Yes"),
    "docvqa": ("1/8/93", "Doe", "$ 1,000"), "mmstar": ("A", "B", "D"), "realworldqa": ("A", "2", "Yes"), "ocrbench": ("CENTRE", "x^{2}", "8 Jan"),
    "pope": ("yes", "no", "yes", "no"),
}  # fmt: skip


def marked(root: Path, name: str, replies: dict[str, str], *words: str) -> dict[str, Any]:
    """The result of the command."""
    answers, out = root / "answers.jsonl", root / "out.json"
    answers.write_text("".join(json.dumps({"id": key, "reply": reply}) + "\n" for key, reply in replies.items()))
    assert score.main([f"data={name}", f"data.root={root}", *words, "--answers", str(answers), "--out", str(out)]) == 0
    return json.loads(out.read_text())


def ids(root: Path, name: str) -> list[str]:
    return [question.name for question in marks.opened(marks.dial_of([f"data={name}", f"data.root={root}"])).questions]


@pytest.mark.parametrize("name", SPECS)
def test_right_replies_are_right_in_any_order_and_empty_ones_are_unparsed(name: str, tmp_path: Path) -> None:
    root = twins.parquet(tmp_path, name)
    replies = dict(zip(ids(root, name), GOLD[name], strict=True))
    found = marked(root, name, dict(reversed(replies.items())))
    headline = SPECS[name].headline
    assert found["metrics"][headline] == pytest.approx(1.0) and found["unparsed"] == 0 and [row["id"] for row in found["rows"]] == list(replies)
    assert found["n"] == len(replies) and found["n_official"] == [*SPECS[name].splits.values()][0] and found["rule"]["version"] >= 1
    nothing = marked(root, name, dict.fromkeys(replies, ""))
    assert nothing["unparsed"] == 1 and nothing["metrics"][headline] == 0 and {row["read_as"] for row in nothing["rows"]} == {None}


def test_profiles_mark_the_same_reply_differently_and_say_under_which_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = twins.parquet(tmp_path, "mmmu")
    replies = {"validation_Accounting_1": "**B**", "validation_Art_2": "A", "validation_Math_3": "13.5"}
    found = {profile: marked(root, "mmmu", replies, f"data.profile={profile}") for profile in PROFILES}
    assert {profile: [row["score"] for row in one["rows"]] for profile, one in found.items()} == {
        "ours": [1, 1, 0], "lmms": [0, 1, 0], "vlmevalkit": [1, 1, 1],
    }  # fmt: skip
    assert found["lmms"]["unparsed"] == pytest.approx(1 / 3) and "by lot" in found["lmms"]["remarks"][0] and not found["ours"]["remarks"]
    assert "profile vlmevalkit, rule mmmu version 1" in capsys.readouterr().out


def test_micro_and_macro_human_and_augmented_and_tracks(tmp_path: Path) -> None:
    star = marked(twins.parquet(tmp_path / "s", "mmstar"), "mmstar", {"0": "A", "1": "B", "2": "A"})["metrics"]
    assert star["accuracy"] == star["accuracy_micro"] == pytest.approx(2 / 3) and star["accuracy_macro"] == 0.75 and star["accuracy/geometry"] == 0.5
    lmms = marked(tmp_path / "s", "mmstar", {"0": "A", "1": "B", "2": "A"}, "data.profile=lmms")["metrics"]
    assert lmms["accuracy"] == lmms["accuracy_macro"] == 0.75
    chart = marked(twins.parquet(tmp_path / "c", "chartqa"), "chartqa", {"0": "5%", "1": "1", "2": "no"})["metrics"]
    assert chart["relaxed_accuracy/human"] == 0.5 and chart["relaxed_accuracy/augmented"] == 0
    pope = marked(twins.parquet(tmp_path / "p", "pope"), "pope", {"0": "Yes.", "1": "yes", "2": "maybe", "3": "no"})
    metrics = pope["metrics"]
    assert metrics["accuracy/random"] == 0.5 and metrics["yes_share/random"] == 1 and metrics["f1/random"] == pytest.approx(2 / 3)
    assert metrics["yes_share"] == 0.5 and pope["unparsed"] == 0.25 and metrics["recall/popular"] == 0


def test_a_question_of_several_tracks_counts_in_each(tmp_path: Path) -> None:
    both = [marked(write(tmp_path / layout, "pope"), "pope", replies)["metrics"] for layout, write, replies in (
        ("parquet", twins.parquet, {"0": "yes", "1": "yes", "2": "yes", "3": "no"}), ("tsv", twins.tsv, {"0": "yes", "1": "yes", "2": "no"}),
    )]  # fmt: skip
    assert {key: value for key, value in both[0].items() if "unparsed" not in key and not key.endswith(("_low", "_high"))} == {
        key: value for key, value in both[1].items() if "unparsed" not in key and not key.endswith(("_low", "_high"))
    }


def test_intervals_know_that_questions_share_a_picture(tmp_path: Path) -> None:
    """The same replies about 40 pictures, and about 8: the second says less."""

    def width(pictures: int) -> float:
        asked = {"question": "Is it?", "answer": "yes", "types": {"structural": "v"}}
        rows = [{"id": str(k), "imageId": f"n{k * pictures // 40}", **asked} for k in range(40)]
        held = [{"id": f"n{k}", "image": twins.IMAGE} for k in range(pictures)]
        files = {"testdev_balanced_instructions/testdev": rows, "testdev_balanced_images/testdev": held}
        root = twins.parquet(tmp_path / str(pictures), "gqa", rows=files)
        metrics = marked(root, "gqa", {str(k): "yes" if k < 20 else "no" for k in range(40)})["metrics"]
        assert metrics["accuracy"] == 0.5
        return metrics["accuracy_high"] - metrics["accuracy_low"]

    assert width(8) > 1.5 * width(40)


def refused(root: Path, capsys: pytest.CaptureFixture[str], name: str, lines: list[Any], *words: str) -> str:
    answers = root / "answers.jsonl"
    answers.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert score.main([f"data={name}", f"data.root={root}", *words, "--answers", str(answers), "--out", str(root / "out.json")]) == 2
    assert not (root / "out.json").exists()
    return capsys.readouterr().err


def test_answers_that_are_missing_twice_or_of_nobody_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = twins.parquet(tmp_path, "gqa")
    given = [{"id": key, "reply": "yes"} for key in ("200", "201", "202")]
    assert "2 of 3 questions have no reply: 201, 202" in refused(root, capsys, "gqa", given[:1])
    assert "200 is answered a second time" in refused(root, capsys, "gqa", [*given, given[0]])
    assert "1 replies are to questions that are not asked: 9" in refused(root, capsys, "gqa", [*given, {"id": "9", "reply": "no"}])
    assert '{"id": ..., "reply": "..."} is legal' in refused(root, capsys, "gqa", [{"id": "200"}])
    assert "Did you mean 'gqa'" in refused(root, capsys, "gqaa", given)
    assert "lora.r: replies are marked by data=SET" in refused(root, capsys, "gqa", given, "lora.r=8")
    (root / "out.json").write_text("mine")
    assert score.main(["data=gqa", f"data.root={root}", "--answers", str(root / "answers.jsonl"), "--out", str(root / "out.json")]) == 2
    assert (root / "out.json").read_text() == "mine"


def test_no_model_and_no_torch_is_needed(tmp_path: Path) -> None:
    root = twins.parquet(tmp_path, "ai2d")
    (root / "answers.jsonl").write_text("".join(json.dumps({"id": str(k), "reply": "A"}) + "\n" for k in range(3)))
    words = ["data=ai2d", f"data.root={root}", "--answers", f"{root}/answers.jsonl", "--out", f"{root}/o.json"]
    code = (
        f"import sys; from lab import score; score.main({words!r})\n"
        "print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert out.stdout.splitlines()[-1] == "[]"


NLVR2 = [("dev-1-0-0", "True"), ("dev-1-1-0", "False"), ("dev-1-0-1", "False"), ("dev-2-0-0", "True")]


def nlvr2_files(root: Path, labelled: bool = True) -> Path:
    root.mkdir(exist_ok=True)
    rows = [{"identifier": name, "sentence": "x", **({"label": label} if labelled else {})} for name, label in NLVR2]
    (root / "dev.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def test_the_official_marks_of_nlvr2_and_nlvr(tmp_path: Path) -> None:
    found = marked(nlvr2_files(tmp_path), "nlvr2", {"dev-1-0-0": "true", "dev-1-1-0": "false.", "dev-1-0-1": "False", "dev-2-0-0": "True"})
    assert found["metrics"]["accuracy"] == 0.75 and found["metrics"]["consistency"] == pytest.approx(2 / 3) and found["n"] == 4
    assert found["unparsed"] == 0.25, "as the official script, which compares the words alone"
    root = tmp_path / "nlvr"
    (root / "dev").mkdir(parents=True)
    (root / "dev" / "dev.json").write_text("".join(json.dumps({"identifier": f"7-{m}", "sentence": "x", "label": "true"}) + "\n" for m in (0, 1)))
    replies = {f"dev-7-{m}-{k}": "false" if (m, k) == (1, 5) else "true" for m in (0, 1) for k in range(6)}
    found = marked(root, "nlvr", {f"{name}.png": reply for name, reply in replies.items()})
    assert found["metrics"]["accuracy"] == pytest.approx(11 / 12) and found["metrics"]["consistency"] == 0 and found["n"] == 12


def test_a_split_without_labels_gives_the_official_submission(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = marked(nlvr2_files(tmp_path, labelled=False), "nlvr2", {name: "true" for name, _ in NLVR2})
    assert Path(found["submission"]).read_text() == "".join(f"{name},True\n" for name, _ in NLVR2) and found["metrics"] == {}
    assert "no labels here" in capsys.readouterr().out


@pytest.mark.skipif(not SHARED.is_dir(), reason="the official files are not here")
@pytest.mark.parametrize(
    ("name", "file", "words"),
    [("nlvr2", "nlvr2/dev.json", ()), ("nlvr2", "nlvr2/balanced_dev.json", ("data.subset=balanced",)), ("nlvr", "nlvr/dev/dev.json", ()),
     ("nlvr", "nlvr/test/test.json", ("data.split=test",))],
)  # fmt: skip
def test_the_marks_equal_those_of_the_official_scripts(name: str, file: str, words: tuple[str, ...], tmp_path: Path) -> None:
    """Answers of which nine in ten are right, some in another case, some neither true nor false."""
    labels = official_rules.nlvr2_labels(SHARED / file) if name == "nlvr2" else official_rules.nlvr_labels(SHARED / file, Path(file).stem)
    names = list(labels) if name == "nlvr2" else [f"{each}-{k}" for each in labels for k in range(6)]
    draw = random.Random(0)
    gold = labels if name == "nlvr2" else {each: labels[each.rpartition("-")[0]] for each in names}
    flipped = {"true": "False", "false": "TRUE"}
    answers = {each: draw.choices([gold[each], flipped[gold[each].lower()], "perhaps"], [90, 8, 2])[0] for each in names}
    official = (official_rules.nlvr2 if name == "nlvr2" else official_rules.nlvr)(labels, answers)
    root = (SHARED / file).parents[1 if name == "nlvr" else 0]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"id": each, "reply": reply}) + "\n" for each, reply in answers.items()))
    assert score.main([f"data={name}", f"data.root={root}", *words, "--answers", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "o.json")]) == 0
    found = json.loads((tmp_path / "o.json").read_text())
    assert (found["metrics"]["accuracy"], found["metrics"]["consistency"]) == pytest.approx((official.accuracy, official.consistency), abs=1e-12)
    assert found["n"] == found["n_official"] == official.num_scored and found["metrics"]["consistency_low"] < official.consistency
