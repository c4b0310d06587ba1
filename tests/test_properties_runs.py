"""Whatever happens to a file of a run folder: a sentence with its path, or the right result; never a traceback, never fewer runs
in silence. The run is written as real ones are; MLflow is a real SQLite store, asked for what it got."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic_runs import Questions, answers, write_run, write_sweep

from lab import sync
from lab.answers import predictions
from lab.artifacts import contract
from lab.errors import LabError
from lab.finished import changed, find
from lab.model.answers import TextReadout
from lab.report import measure
from lab.report.select_runs import choose
from lab.report.write import write_report
from lab.run.measuring import PROBE, stored_probe
from lab.store import curve_files, runs

FILES = ("run.json", "curves.jsonl", "contract.json", PROBE, "predictions/dev.parquet", "predictions/minival.parquet", "delivered.json")
GONE, EMPTY, FOLDER = "removed", "emptied", "a folder"
DAMAGE = st.one_of(
    st.sampled_from([GONE, EMPTY, FOLDER]),
    st.tuples(st.just("cut at"), st.floats(0, 1)),
    st.tuples(st.just("byte"), st.floats(0, 1), st.integers(0, 255)),
    st.tuples(st.just("replaced by"), st.binary(max_size=64)),
    st.tuples(st.just("replaced by"), st.sampled_from([b"{}", b"[]", b"null", b"[" * 3000, b'{"version": 2}', b"\xff\xfe{\0}\0"])),
    st.tuples(st.just("one field more"), st.sampled_from(["a_later_field", "metrics", "config", "facts", "started", "identity"])),
)


def harm(path: Path, damage: object) -> None:
    """Do one thing to a file."""
    whole = path.read_bytes()
    path.unlink()
    match damage:
        case "removed":
            return
        case "emptied":
            path.write_bytes(b"")
        case "a folder":
            path.mkdir()
        case ("cut at", share):
            path.write_bytes(whole[: int(share * len(whole))])
        case ("byte", share, value):
            at = min(int(share * len(whole)), len(whole) - 1)
            path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
        case ("replaced by", content):
            path.write_bytes(content)
        case ("one field more", name):
            path.write_bytes(whole.replace(b"{", f'{{"{name}": 1, '.encode(), 1) if whole[:1] == b"{" else whole + b"{}\n")


@pytest.fixture(scope="module")
def whole(composer, tmp_path_factory) -> Path:
    """Two finished runs and their sweep, with every file that a run leaves."""
    import torch
    from safetensors.torch import save_file

    from lab.config import as_dict

    runs_dir = tmp_path_factory.mktemp("whole") / "runs"
    dev, minival = Questions.draw("dev", 60), Questions.draw("minival", 30, seed=1)
    for identity, rank in (("one", 2), ("two", 4)):
        run = write_run(runs_dir, identity, {"lora.r": rank}, answers(dev, 0.6, seed=rank), answers(minival, 0.6, seed=rank))
        run.config = as_dict(composer(f"lora.r={rank}", f"tracking.runs_dir={runs_dir}"))
        runs.save(runs_dir, run)
        contract.save(runs_dir / identity, {"version": contract.VERSION, "prompt": {"template": "t"}})
        save_file({"logits": torch.zeros(8, 5), "answers": torch.zeros(8, 5, dtype=torch.int64)}, runs_dir / identity / PROBE)
        (runs_dir / identity / "delivered.json").write_text('{"uri": "u", "experiment": "e", "started": "s", "run_id": "r"}\n')
    write_sweep(runs_dir, "both", ["one", "two"], ["lora.r"])
    return runs_dir


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Where the harmed copy lies; the same folder each time, so that paths in messages are short."""
    return tmp_path_factory.mktemp("harmed")


@contextlib.contextmanager
def said() -> Iterator[io.StringIO]:
    """What is logged or printed within."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    logging.getLogger("lab").addHandler(handler)
    try:
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            yield text
    finally:
        logging.getLogger("lab").removeHandler(handler)


def copy(whole: Path, place: Path) -> Path:
    """A fresh copy of both runs."""
    curve_files._tell_bad_line.cache_clear()
    shutil.rmtree(place / "runs", ignore_errors=True)
    return Path(shutil.copytree(whole, place / "runs"))


def sentence(act: Callable[[], object], runs_dir: Path) -> bool:
    """Whether something ended well; otherwise its sentence names the run folder."""
    try:
        act()
    except LabError as error:
        assert "one" in str(error) and len(str(error)) < 2000
        return False
    return True


many = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@many
@given(name=st.sampled_from(FILES), damage=DAMAGE, by_sweep=st.booleans())
def test_reading_for_a_report(whole, place, name: str, damage: object, by_sweep: bool) -> None:
    """Both runs are there with all their rows, or a line names the file of the one that is not."""
    runs_dir = copy(whole, place)
    harm(runs_dir / "one" / name, damage)
    if not by_sweep:
        shutil.rmtree(runs_dir / "sweeps")
    with said() as text:
        selection = choose(runs_dir)
        measured = measure.measure_all(selection.arms)
        rows = {arm.run.identity: list(curve_files.read(arm.folder)) for arm in selection.arms if (arm.folder / "curves.jsonl").is_file()}
    reasons = text.getvalue() + " ".join(one.reason for one in measured if isinstance(one, measure.Unmeasured))
    reasons += " ".join(one.details.unscaled or "" for one in measured if isinstance(one, measure.Measured))
    found = {one.arm.run.identity: one for one in measured}
    assert isinstance(found["two"], measure.Measured) and found["two"].num_examples == 60
    one = found.get("one")
    if isinstance(one, measure.Measured):
        assert one.num_examples == 60
    else:
        assert str(runs_dir / "one") in reasons or not by_sweep and "one/run.json" not in reasons and name == "run.json" and damage == GONE
    if len(rows.get("one", ())) < 30 and name == "curves.jsonl" and not isinstance(damage, str):
        assert "curves.jsonl" in reasons or damage[0] in ("cut at", "replaced by", "byte")


@many
@given(name=st.sampled_from(FILES), damage=DAMAGE)
def test_opening_for_an_evaluation(whole, place, name: str, damage: object) -> None:
    """What `lab.evaluate` and `lab.verify` read before they load a model."""
    runs_dir = copy(whole, place)
    folder = runs_dir / "one"
    harm(folder / name, damage)
    if sentence(lambda: find(runs_dir, "one"), runs_dir) and name == "run.json":  # which alone it is made of
        sentence(lambda: changed(find(runs_dir, "one"), ["data.num_dev=40"]), runs_dir)
    sentence(lambda: contract.differences(contract.load(folder), contract.load(runs_dir / "two")), runs_dir)
    sentence(lambda: stored_probe(folder, TextReadout("none")), runs_dir)
    for split, rows in (("dev", 60), ("minival", 30)):
        path = folder / "predictions" / f"{split}.parquet"
        if sentence(lambda path=path: predictions.read(path), runs_dir):
            assert len(predictions.read(path)) == rows


STRANGE = [
    *(("run.json", damage) for damage in (GONE, EMPTY, FOLDER, ("one field more", "a_later_field"), ("replaced by", b"[]"))),
    *((name, FOLDER) for name in FILES[1:-1]),
    ("curves.jsonl", ("replaced by", b"{torn\n")),
]


@pytest.mark.usefixtures("blank_figures")
def test_the_doors(whole, tmp_path, migrated) -> None:
    """A folder of many harmed runs, reported and delivered as it is typed: each costs itself and a line, and no other run."""
    runs_dir, store = copy(whole, tmp_path), tmp_path / "mlflow.db"
    shutil.copy(migrated, store)
    (runs_dir / "sweeps" / "strange.json").write_text("{}")
    for number, (name, damage) in enumerate(STRANGE):
        folder = runs_dir / f"harmed{number}"
        shutil.copytree(runs_dir / "one", folder)
        (folder / "run.json").write_text((folder / "run.json").read_text().replace('"identity": "one"', f'"identity": "{folder.name}"'))
        harm(folder / name, damage)
    with said() as text:
        page = (write_report(choose(runs_dir, run_ids=[f"harmed{i}" for i in range(1, len(STRANGE))]), tmp_path / "out") / "report.md").read_text()
        code = sync.sync(str(runs_dir), f"sqlite:///{store}", None)
    lines = text.getvalue().splitlines()
    for number, (name, damage) in enumerate(STRANGE):
        path = runs_dir / f"harmed{number}"
        named = [line for line in lines if str(path) in line]
        assert named or str(path) in page or name in ("contract.json", PROBE), (name, damage)
        if name == "run.json" and damage != GONE:
            assert f"| harmed{number} **UNREADABLE**" in page.replace("`", "")
        delivered = path / "delivered.json"
        status = json.loads(delivered.read_text()).get("status")
        assert (status == "FINISHED") == (name not in ("run.json", "curves.jsonl") or damage[1] == b"{torn\n")
    assert any("sweeps/strange.json" in line for line in lines)
    assert f"{len(STRANGE) - 4} of {len(STRANGE) - 3} runs are up to date" in text.getvalue() and code == 1
