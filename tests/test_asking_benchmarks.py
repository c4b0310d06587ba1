"""Benchmarks asked by one command: answers kept as they come, numbers by each set's rule, nothing asked twice."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import benchmark_twins as twins
import checkpoints
import kills
import pytest
from kills import PowerCut
from safetensors.torch import load_file, save_file

from lab import evaluate
from lab import run as running
from lab.benchmark_specs import SPECS
from lab.config import Experiment, identity
from lab.errors import ConfigError, ContractError
from lab.evaluation.answers_file import AnswersFile
from lab.report import rescoring
from lab.store import runs

pytestmark = pytest.mark.usefixtures("nominal_costs")

SMALL = (
    "data=ai2d", "data.num_dev=3", "lora=none", "trainer.max_steps=0", "evaluation.verify=false", "evaluation.latency_examples=0",
    "tracking.enabled=false", "evaluation.batch_size=4", "evaluation.max_new_tokens=3", "evaluation.splits=[dev]",
)  # fmt: skip
OPTIONS = {"qwen3_vl": "qwen3_vl_2b", "qwen2_5_vl": "qwen2_5_vl_3b"}
ALSO = tuple(name for name in SPECS if name != "ai2d")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    for name in SPECS:
        twins.seeded(folder, name, 20)
    return folder


@pytest.fixture(scope="module")
def asked(composer, tiny_folder, tmp_path_factory, root):
    """Composes the command over folders of its own."""

    def make(*more: str, also: tuple[str, ...] = ALSO) -> Experiment:
        folder = tmp_path_factory.mktemp("asked")
        places = (f"model.path={tiny_folder}", f"tracking.runs_dir={folder / 'runs'}", f"tracking.cache_dir={folder / 'cache'}")
        return composer(*SMALL, f"data.root={root / 'ai2d'}", *places, f"evaluation.also={json.dumps(also)}", f"evaluation.also_root={root}", *more)

    return make


def left(x: Experiment) -> dict[str, bytes]:
    """What a command leaves of answers, by file."""
    folder = runs.folder(Path(x.tracking.runs_dir), identity(x))
    files = [path for part in ("answers", "predictions", "evaluations") for path in sorted((folder / part).iterdir())]
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in files}


def test_thirteen_sets_are_asked_by_one_command_and_three_kills_leave_the_same_bytes(asked, monkeypatch) -> None:
    whole, x = asked(), asked()
    run = running.run_alone(whole, "command", time.time())
    added = {"lines": 0}
    add = AnswersFile.add

    def cut_off(self, found) -> None:
        add(self, found)
        added["lines"] += 1
        if added["lines"] in (3, 21, 40):
            with self.path.open("ab") as file:
                file.write(b'{"id": "hal')
            raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(AnswersFile, "add", cut_off)
        for _ in range(3):
            with pytest.raises(PowerCut):
                running.run_alone(x, "command", time.time())
    again = running.run_alone(x, "command", time.time())
    files = left(whole)
    assert left(x) == files
    assert {name for name in files if name.endswith(".jsonl")} == {f"answers/{name}.jsonl" for name in SPECS}
    for name in SPECS:
        lines = [json.loads(line) for line in files[f"answers/{name}.jsonl"].splitlines()]
        found = json.loads(files[f"evaluations/{name}.json"])
        assert [*lines[0]] == ["id", "reply", "scores", "picture"]
        assert found["n"] == len(lines) and found["n_official"] > 100 and found["rule"]["name"] == SPECS[name].rule
        assert {"profile", "unparsed", "metrics", "left_out", "cut", "prompt"} <= found.keys()
        headline = f"{name}/{SPECS[name].headline}"
        assert run.metrics[headline] == again.metrics[headline] == found["metrics"][SPECS[name].headline]
    assert json.loads(files["evaluations/gqa.json"])["cut"] > 0.5  # of what three tokens cut off, which is told beside the score
    assert 0 < sum("video" in one["reason"] for one in json.loads(files["evaluations/seed.json"])["left_out"]) < 20


ROWS = 300
KILLS = 3


@pytest.mark.bar
@pytest.mark.parametrize("family", ["tiny", "qwen3_vl", "qwen2_5_vl"])
def test_thirteen_sets_of_300_rows_are_asked_in_minutes_and_sigkill_leaves_the_same_bytes(family: str, composer, tmp_path: Path) -> None:
    """`pytest tests/test_asking_benchmarks.py -m bar -k sigkill -s` prints the seconds of each undisturbed command; ten minutes for all three."""
    for name in SPECS:
        twins.seeded(tmp_path / "sets", name, ROWS)
    option = ["model=tiny"]
    if family in OPTIONS:
        checkpoints.save(family, tmp_path / family)
        option = [f"model={OPTIONS[family]}", f"model.path={tmp_path / family}", "model.dtype=float32"]

    def of(folder: str) -> Experiment:
        places = [f"tracking.runs_dir={tmp_path / folder}", f"tracking.cache_dir={tmp_path / 'cache'}", f"data.root={tmp_path / 'sets' / 'ai2d'}"]
        asked = [f"evaluation.also={json.dumps(ALSO)}", f"evaluation.also_root={tmp_path / 'sets'}", "evaluation.batch_size=64"]
        return composer(*SMALL, *option, *places, *asked, "data.num_dev=null")

    x, start = of("whole"), time.perf_counter()
    process = kills.start([x])
    process.join()
    seconds = time.perf_counter() - start
    assert process.exitcode == 0
    whole, x = left(x), of("killed")
    lines = sum(content.count(b"\n") for name, content in whole.items() if name.endswith(".jsonl"))
    print(f"\n{family}: {lines} answers in {seconds:.0f} s", flush=True)
    assert lines > 0.9 * ROWS * len(SPECS)
    for kill in range(KILLS):
        process = kills.start([x])
        while lines_of(x) < lines * (kill + 1) / (KILLS + 1):
            assert process.is_alive()
            time.sleep(0.05)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    process = kills.start([x])
    process.join()
    assert process.exitcode == 0 and left(x) == whole
    assert seconds < 200


def lines_of(x: Experiment) -> int:
    """Answers that lie on disk."""
    folder = runs.folder(Path(x.tracking.runs_dir), identity(x)) / "answers"
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("*.jsonl"))


def test_a_limit_is_a_sample_of_whole_pictures_and_another_takes_the_place_of_its_numbers(asked, monkeypatch) -> None:
    x = asked("evaluation.max_samples=5", also=("gqa",))
    run = running.run_alone(x, "command", time.time())
    assert run.config["evaluation"]["also"] == [f"gqa root={x.evaluation.also_root}/gqa num_dev=5"]
    few = left(x)
    ids = [json.loads(line)["id"] for line in few["answers/gqa.jsonl"].splitlines()]
    assert len(ids) == 5 and ids != [str(k) for k in range(5)] and json.loads(few["evaluations/gqa.json"])["n"] == 5
    more = asked("evaluation.max_samples=1000", f"tracking.runs_dir={x.tracking.runs_dir}", also=("gqa",))
    after = running.run_alone(more, "command", time.time())
    assert json.loads(left(x)["evaluations/gqa.json"])["n"] == 20 and after.metrics["gqa/n"] == 20
    assert after.config["evaluation"]["also"] == more.evaluation.also and not running.unasked(more, after) and running.unasked(x, after)
    asked_now: list[str] = []
    monkeypatch.setattr("lab.evaluation.asking.ask", lambda *a, **k: asked_now.append(a[4]))
    running.run_alone(more, "command", time.time())
    assert not asked_now


def test_other_weights_or_limits_are_asked_anew(asked, root, caplog) -> None:
    x = asked(also=("textvqa",))
    running.run_alone(x, "command", time.time())
    first = left(x)
    longer = asked(f"tracking.runs_dir={x.tracking.runs_dir}", "evaluation.max_new_tokens=5", also=("textvqa",))
    running.run_alone(longer, "command", time.time())
    then = left(x)
    assert then["answers/textvqa.jsonl"] != first["answers/textvqa.jsonl"] and then["answers/textvqa.asked"] != first["answers/textvqa.asked"]


def test_weights_that_were_overwritten_in_place_are_not_those_of_the_record(asked, tiny_folder, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "base")
    x = asked(f"model.path={folder}", also=("gqa",))
    running.run_alone(x, "command", time.time())
    first = left(x)
    weights = load_file(folder / "model.safetensors")
    save_file({name: -each for name, each in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ContractError, match="its weights are not those of run .* Give trainer.if_finished=again"):
        running.run_alone(x, "command", time.time())
    running.run_alone(asked(f"model.path={folder}", f"tracking.runs_dir={x.tracking.runs_dir}", "trainer.if_finished=again", also=("gqa",)), "c", 0.0)
    then = left(x)
    assert then["answers/gqa.asked"] != first["answers/gqa.asked"] and then["answers/gqa.jsonl"] != first["answers/gqa.jsonl"]


def test_a_folder_that_lacks_a_set_is_refused_before_anything_loads(asked, root, tmp_path: Path) -> None:
    assert asked(also=("science_qa",)).evaluation.also == [f"science_qa root={root}/scienceqa"]
    with pytest.raises(ConfigError, match="evaluation.also_root=.*it has no folder gqa"):
        asked(f"evaluation.also_root={tmp_path}", also=("gqa",))
    assert asked("evaluation.also_root=null", also=("winoground root=/w",)).evaluation.also == ["winoground root=/w"]


QUICK = (
    "evaluation.verify=false", "evaluation.latency_examples=0", "tracking.enabled=false", "evaluation.max_new_tokens=3", "evaluation.max_samples=4",
)  # fmt: skip


def test_a_checkpoint_without_a_run_is_asked_by_the_same_command(tiny_folder, root, tmp_path: Path, capsys) -> None:
    words = ["model=tiny", f"model.path={tiny_folder}", f"evaluation.also_root={root}", f"tracking.cache_dir={tmp_path / 'cache'}", *QUICK]
    given = [*words, "evaluation.also=[ai2d,mmmu]", "--runs-dir", str(tmp_path / "runs")]
    assert evaluate.main(given) == 0
    said = capsys.readouterr().out
    assert "ai2d (test): n=4 (officially 3088)" in said and "mmmu (validation): n=4" in said
    (folder,) = [path.parent for path in (tmp_path / "runs").glob("*/run.json")]
    run = runs.load(tmp_path / "runs", folder.name)
    assert run is not None and run.status == runs.FINISHED and {"ai2d/accuracy", "mmmu/accuracy"} <= run.metrics.keys()
    before = (folder / "answers" / "ai2d.jsonl").read_bytes()
    more = ["--run", folder.name, "--runs-dir", str(tmp_path / "runs"), "evaluation.also=[mmmu,gqa]", f"evaluation.also_root={root}", *QUICK[2:]]
    assert evaluate.main(more) == 0 and "gqa (testdev_balanced testdev): n=4" in capsys.readouterr().out
    after = runs.load(tmp_path / "runs", folder.name)
    assert after is not None and {"gqa/accuracy", "mmmu/accuracy"} <= after.metrics.keys() and len([*(folder / "answers").glob("*.jsonl")]) == 3
    assert (folder / "answers" / "ai2d.jsonl").read_bytes() == before and len([*(tmp_path / "runs").glob("*/run.json")]) == 1
    numbers = [(path, path.read_bytes()) for path in (folder / "evaluations").iterdir()]
    assert rescoring.rescore(tmp_path / "runs", [], None, tmp_path / "out")[1] == 3 and [(path, path.read_bytes()) for path, _ in numbers] == numbers
    assert evaluate.main(["model=tiny", "--runs-dir", str(tmp_path / "runs")]) == 2
    assert evaluate.main([*more, "lora.r=2"]) == 2 and "whose own keys stand" in capsys.readouterr().err


def test_both_ways_of_asking_a_choice_are_held_against_each_other_question_by_question(asked) -> None:
    x = asked("evaluation.ask=[score,generate]", "data.num_dev=6", also=("mmstar",))
    run = running.run_alone(x, "command", time.time())
    folder = runs.folder(Path(x.tracking.runs_dir), identity(x))
    for name, number in {"ai2d": 6, "mmstar": 20}.items():
        found = json.loads((folder / "evaluations" / f"{name}.json").read_text())["generate"]
        assert sum(found["right"].values()) == number and len(found["differing"]) == round(found["differ"] * number)
        share = (found["right"]["both"] + found["right"]["generate_only"]) / number
        assert run.metrics[f"{name}/generate_accuracy"] == pytest.approx(share)
        assert len((folder / "answers" / f"{name}.generate.jsonl").read_text().splitlines()) == number
