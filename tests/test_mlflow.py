"""MLflow as its users know it: arms as bars behind one link, models that can be ranked, one run of the sweep with its report."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import blank_figures
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow_server import Server
from synthetic_runs import Questions, answers, write_example, write_run, write_sweep

from lab import sync
from lab.config import Tracking, flat
from lab.report.formatting import count, percent, quantity
from lab.report.palette import COLOURS
from lab.report.select_runs import choose
from lab.report.write import write_report
from lab.store import curve_files, runs
from lab.store.runs import Sweep
from lab.store.sync_state import NOTE
from lab.tracking import links, naming
from lab.tracking.background import Trackers
from lab.tracking.mlflow_sync import MlflowSync

PICTURES = os.environ.get("LAB_PICTURES")
"""A folder for what the browser saw, which CI keeps; without, pictures are dropped."""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HEADLINE = ("accuracy", "accuracy_low", "accuracy_high", "ece", "latency_p50_ms", "trainable_parameters")


@dataclasses.dataclass(frozen=True)
class Published:
    """A sweep of five arms and one that failed, delivered and published."""

    folder: Path
    trackers: Trackers
    database: Path

    @property
    def client(self) -> MlflowClient:
        return self.trackers.mlflow.client()

    def found(self, role: str) -> dict[str, Any]:
        """Runs of a role by identity, the sweep's by its id."""
        experiment = self.client.get_experiment_by_name("lab").experiment_id
        there = self.client.search_runs([experiment], f"tags.`lab.role` = '{role}'")
        return {run.data.tags.get("lab.identity", run.data.tags["lab.sweep"]): run for run in there}


def store(folder: Path, migrated: Path) -> Tracking:
    """A tracking section over a fresh store whose artifacts lie in the folder."""
    shutil.copy(migrated, folder / "mlflow.db")
    uri = f"sqlite:///{folder}/mlflow.db"
    MlflowClient(tracking_uri=uri).create_experiment("lab", artifact_location=str(folder / "artifacts"))
    return Tracking(runs_dir=str(folder / "runs"), cache_dir=str(folder / "cache"), uri=uri)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Published:
    folder = tmp_path_factory.mktemp("published")
    section = store(folder, migrated)
    sweep = write_example(folder / "runs", 280, 80, intervals=True)
    failed = runs.load(folder / "runs", "rank512")
    assert failed is not None
    runs.save(folder / "runs", dataclasses.replace(failed, started=runs.now(), ended=runs.now()))
    trackers = Trackers(section)
    assert trackers.deliver_all(sweep.arms, sweep.identity) == len(sweep.arms)
    with pytest.MonkeyPatch.context() as patch:
        blank_figures.use(patch)
        assert trackers.sweeps.publish(sweep.identity)
    return Published(folder, trackers, folder / "mlflow.db")


def test_arms_stand_alone_and_are_tied_to_their_sweep_by_tags(published: Published) -> None:
    arms, (summary,) = published.found("arm"), published.found("sweep").values()
    labels = {arm.run.identity: arm.label for arm in choose(published.folder / "runs", "ranks").arms}
    assert {name: run.info.run_name for name, run in arms.items()} == labels
    finished = {name: run for name, run in arms.items() if run.info.status == "FINISHED"}
    assert len(finished) == 5 and len(arms) == 6
    colours = [run.data.tags["mlflow.runColor"] for run in finished.values()]
    assert len(set(colours)) == len(colours)
    groups = {run.data.tags["lab.replicate_group"] for run in arms.values()}
    assert len(groups) == len(arms) and any("lora.r=32" in group for group in groups)
    assert {run.data.tags["lab.sweep"] for run in (summary, *arms.values())} == {"ranks"}
    assert not any("mlflow.parentRunId" in run.data.tags for run in arms.values())
    experiment = published.client.get_experiment(summary.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


@pytest.mark.usefixtures("blank_figures")
def test_an_arm_that_a_race_stopped_is_delivered_with_its_sweep(tmp_path: Path, migrated: Path) -> None:
    sweep = write_example(tmp_path / "runs", 60, 20)
    arm = runs.load(tmp_path / "runs", "rank512")
    assert arm is not None
    runs.save(tmp_path / "runs", dataclasses.replace(arm, status=runs.STOPPED, started=runs.now(), ended=runs.now()))
    trackers = Trackers(store(tmp_path, migrated))
    assert trackers.deliver_all(sweep.arms, sweep.identity) == len(sweep.arms) and trackers.sweeps.publish(sweep.identity)
    tags = Published(tmp_path, trackers, tmp_path / "mlflow.db").found("arm")[arm.identity].data.tags
    assert tags["lab.sweep"] == sweep.identity and "mlflow.runColor" not in tags


def test_final_numbers_stand_at_step_0_and_the_headline_is_that_of_the_record(published: Published) -> None:
    for name, run in published.found("arm").items():
        record = runs.load(published.folder / "runs", name)
        if record.status != runs.FINISHED:
            assert not run.data.metrics
            continue
        assert {f"arm/{key}" for key in HEADLINE} == {key for key in run.data.metrics if key.startswith("arm/")}
        assert run.data.metrics["arm/accuracy_low"] == record.metrics["dev/accuracy_low"] < run.data.metrics["arm/accuracy"]
        rows = curve_files.read(runs.folder(published.folder / "runs", name))
        curves = {naming.curve_name(key) for row in rows for key in row.keys() - {"step", "seconds"}}
        history = {key: published.client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
        assert {key for key, points in history.items() if [point.step for point in points] != [0]} <= curves
        assert not curves & naming.final(record).keys() and min(run.data.metrics) == "arm/accuracy"
        params = run.data.params
        assert params["lora.r"] == str(flat(record.config)["lora.r"]) and "None" not in params.values()
        files = {file.path for file in published.client.list_artifacts(run.info.run_id)}
        assert {"config.yaml", "run.json", "predictions"} <= files


def test_models_are_ranked_by_their_final_numbers_on_the_evaluation_data(published: Published) -> None:
    experiment = published.client.get_experiment_by_name("lab").experiment_id
    order = [{"field_name": "metrics.arm/accuracy", "ascending": False, "dataset_name": "pairs.dev"}]
    ranked = published.client.search_logged_models([experiment], order_by=order)
    arms = {run.info.run_id: run for run in published.found("arm").values()}
    accuracy = [arms[model.source_run_id].data.metrics["arm/accuracy"] for model in ranked]
    assert len(ranked) == 5 and accuracy == sorted(accuracy, reverse=True)
    assert all({metric.key for metric in model.metrics} == {f"arm/{key}" for key in HEADLINE} for model in ranked)
    for run in published.found("arm").values():
        if run.info.status != "FINISHED":
            continue
        used = {entry.tags[0].value: entry.dataset for entry in run.inputs.dataset_inputs}
        assert used["evaluation"].name == "pairs.dev" and json.loads(used["evaluation"].profile) == {"num_rows": 280}
        assert {"training", "validation", "evaluation"} == used.keys() and used["training"].digest == "a" * 36


def test_the_run_of_a_sweep_has_its_report_and_says_what_came_out(published: Published) -> None:
    (summary,) = published.found("sweep").values()
    tags, arms = summary.data.tags, published.found("arm")
    best = max((run for run in arms.values() if "minival/accuracy" in run.data.metrics), key=lambda run: run.data.metrics["minival/accuracy"])
    assert tags["lab.best_run"] == best.info.run_id and tags["lab.best_arm"] == best.info.run_name
    note = tags["mlflow.note.content"]
    low, high = (f"{100 * best.data.metrics[f'arm/accuracy_{end}']:.1f}" for end in ("low", "high"))
    assert note.startswith("**") and f"95 % interval {low} to {high}" in note.splitlines()[0]
    assert all(run.info.run_name.split()[0] in note for run in arms.values() if run.info.status == "FINISHED") and len(note) <= 8000
    files = {file.path for folder in (None, "report") for file in published.client.list_artifacts(summary.info.run_id, folder)}
    assert {"table.json", "config.yaml", "report/report.html", "report/report.md", "report/figures"} <= files
    assert not summary.data.metrics


def test_publishing_again_sends_nothing_until_something_changes(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published.client, "set_tag", None)
    assert published.trackers.sweeps.publish("ranks")


@pytest.mark.usefixtures("blank_figures")
def test_an_arm_of_two_sweeps_is_found_by_both_links(tmp_path: Path, migrated: Path) -> None:
    trackers = Trackers(store(tmp_path, migrated))
    dev = Questions.draw("dev", 40)
    for rank in (2, 4, 8):
        write_run(tmp_path / "runs", f"r{rank}", {"lora.r": rank}, answers(dev, rank / 8))
    for name, arms in (("first", ["r2", "r4"]), ("second", ["r4", "r8"])):
        sweep = write_sweep(tmp_path / "runs", name, arms, ["lora.r"])
        assert trackers.deliver_all(arms, name) == 2 and trackers.sweeps.publish(name)
        query = links.arms_filter(sweep)
        experiment = trackers.mlflow.store.experiment()
        found = trackers.mlflow.client().search_runs([experiment], query)
        assert sorted(run.data.tags["lab.identity"] for run in found) == arms


def test_a_run_that_is_trained_anew_takes_the_place_of_the_earlier(tmp_path: Path, migrated: Path) -> None:
    mlflow = MlflowSync(store(tmp_path, migrated))
    run = write_run(tmp_path / "runs", "again", {"lora.r": 2}, answers(Questions.draw("dev", 40), 0.5))
    assert mlflow.deliver("again")
    runs.save(tmp_path / "runs", dataclasses.replace(run, started=runs.now()))
    assert mlflow.deliver("again") and mlflow.deliver("again")
    roles = sorted(there.data.tags["lab.role"] for there in mlflow.client().search_runs([mlflow.store.experiment()]))
    assert roles == ["arm", "replaced"]


def test_a_number_that_is_not_finite_is_named_by_a_tag(tmp_path: Path, migrated: Path) -> None:
    section = store(tmp_path, migrated)
    run = write_run(tmp_path / "runs", "odd", {"lora.r": 2}, answers(Questions.draw("dev", 40), 0.5))
    curve_files.append(runs.folder(tmp_path / "runs", "odd"), {"step": 300, "seconds": 1.0, "train/loss": math.nan})
    run.metrics |= {"dev/auroc_label": math.nan, "latency/p50_ms": math.inf}
    runs.save(tmp_path / "runs", run)
    mlflow = MlflowSync(section)
    assert mlflow.deliver("odd") and mlflow.deliver("odd")
    (there,) = mlflow.client().search_runs([mlflow.store.experiment()])
    assert not {"dev/auroc_label", "latency/p50_ms", "arm/latency_p50_ms"} & there.data.metrics.keys()
    assert all(math.isfinite(value) and abs(value) < 1e300 for value in there.data.metrics.values())
    assert set(there.data.tags["lab.not_finite"].split(", ")) == {
        "train/loss is nan at step 300", "dev/auroc_label is nan at step 0", "latency/p50_ms is inf at step 0",
        "arm/latency_p50_ms is inf at step 0",
    }  # fmt: skip


@pytest.mark.parametrize("noted", [True, False])
@pytest.mark.usefixtures("blank_figures")
def test_what_an_earlier_version_logged_below_a_parent_is_made_right(tmp_path: Path, migrated: Path, noted: bool) -> None:
    """Its points stay, once each; the arm gets its headline, leaves its parent, and the parent becomes the run of the sweep."""
    section = store(tmp_path, migrated)
    run = write_run(tmp_path / "runs", "old", {"lora.r": 2}, answers(Questions.draw("dev", 40), 0.5), curve=False)
    run.sweep = write_sweep(tmp_path / "runs", "s", ["old"], []).identity
    runs.save(tmp_path / "runs", run)
    client = MlflowClient(tracking_uri=section.uri)
    experiment = client.get_experiment_by_name("lab").experiment_id
    parent = client.create_run(experiment, tags={"lab.sweep": "s"}).info.run_id
    tags = {"lab.identity": "old", "lab.started": run.started, "mlflow.parentRunId": parent}
    arm = client.create_run(experiment, tags=tags).info.run_id
    client.log_batch(arm, metrics=[Metric(key, value, 0, 300) for key, value in run.metrics.items()])
    client.set_terminated(arm)
    if noted:
        known = {"uri": section.uri, "experiment": "lab", "started": run.started, "run_id": arm, "metrics": run.metrics, "status": "FINISHED"}
        (tmp_path / "runs" / "old" / NOTE).write_text(json.dumps(known))
    assert sync.sync(str(tmp_path / "runs"), section.uri, None) == 0
    (there,) = client.search_runs([experiment], "tags.`lab.role` = 'arm' and tags.`lab.sweep` = 's'")
    (summary,) = client.search_runs([experiment], "tags.`lab.role` = 'sweep'")
    assert (there.info.run_id, summary.info.run_id) == (arm, parent) and "mlflow.parentRunId" not in there.data.tags
    steps = {key: [point.step for point in client.get_metric_history(arm, key)] for key in there.data.metrics}
    assert steps == {**dict.fromkeys(run.metrics, [300]), **dict.fromkeys(naming.headline(run.metrics), [0])}
    assert "mlflow.note.content" in summary.data.tags and len(client.search_runs([experiment])) == 2


BARS = """() => [...document.querySelectorAll('.js-plotly-plot')].filter(plot => plot.data && plot.data[0].type === 'bar').map(plot => ({
    title: plot.closest('[data-testid="experiment-view-compare-runs-card"]').innerText.split('\\n')[0],
    names: plot.data[0].names, values: plot.data[0].x, written: plot.data[0].text, colours: plot.data[0].marker.color,
}))"""
"""What MLflow's bar charts show, of those that have scrolled into view: each with its arms, their values and what is written on them."""


@pytest.fixture(scope="module")
def look(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], tuple[str, dict[str, Any]]]]:
    """Open an address in Chromium, nothing clicked: what is written there, and the bar charts by title."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    pictures = Path(PICTURES or tmp_path_factory.mktemp("pictures"))
    pictures.mkdir(parents=True, exist_ok=True)

    def open_page(url: str, name: str) -> tuple[str, dict[str, Any]]:
        page = browser.new_page(viewport={"width": 1600, "height": 1200})
        page.set_default_timeout(120_000)
        page.goto(url)
        page.wait_for_selector("text=matching runs")
        page.wait_for_function(f"({BARS})().length >= {len(HEADLINE)}")
        charts = {chart["title"]: chart for chart in page.evaluate(BARS)}
        written = page.inner_text("body")
        page.screenshot(path=pictures / f"mlflow-{name}.png")
        page.close()
        return written, charts

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield open_page
        browser.close()


@pytest.fixture(scope="module")
def served(published: Published, many: MlflowSync, look: Any, forking_server: Path) -> Iterator[Callable[[list[str]], str]]:
    """The address that a command has printed, on a server over a copy of the store."""
    server = Server(published.folder, published.database, forking_server)
    server.start()
    server.wait()
    yield lambda lines: lines[1].strip().replace(links.LOCAL, server.uri)
    server.kill()


@pytest.mark.usefixtures("blank_figures")
def test_the_printed_link_shows_what_the_report_says_of_every_arm(published: Published, look: Any, served: Any) -> None:
    lines = links.of_sweep(published.trackers.mlflow, runs.load_sweep(published.folder / "runs", "ranks"))
    assert len(lines) == 2 and lines[0].endswith(f"--backend-store-uri {published.trackers.mlflow.uri}")
    _, charts = look(served(lines), "5-arms")
    assert list(charts)[: len(HEADLINE)] == [f"arm/{name}" for name in sorted(HEADLINE)]
    selection = choose(published.folder / "runs", "ranks")
    page = (write_report(selection, published.folder / "report") / "report.md").read_text()
    colours = {run.info.run_name: run.data.tags["mlflow.runColor"] for run in published.found("arm").values() if run.data.metrics}
    for chart in (charts[f"arm/{name}"] for name in HEADLINE):
        assert dict(zip(chart["names"], chart["colours"], strict=True)) == colours
        assert chart["written"] == [f"{value:.2f}" for value in chart["values"]]
    seen = {name: dict(zip(charts[f"arm/{name}"]["names"], charts[f"arm/{name}"]["values"], strict=True)) for name in HEADLINE}
    for label in colours:
        (row,) = [line for line in page.split("## Results")[1].split("\n## ")[0].splitlines() if line.startswith(f"| `{label}`")]
        within = f"{percent(seen['accuracy'][label])} [{percent(seen['accuracy_low'][label])}, {percent(seen['accuracy_high'][label])}]"
        assert within in row.replace("\\", "") and f"{quantity(seen['latency_p50_ms'][label])} / " in row
        assert f"| {percent(seen['ece'][label])} [" in row.replace("\\", "") and f"| {count(seen['trainable_parameters'][label])} |" in row


@pytest.fixture(scope="module")
def many(published: Published) -> MlflowSync:
    """An experiment with two sweeps of 48 and 120 arms, the first inside the second, of which it has no more than the headline."""
    mlflow = MlflowSync(dataclasses.replace(published.trackers.section, experiment="many"))
    client, experiment = mlflow.client(), mlflow.store.experiment()
    for place in range(120):
        tags = {"lab.role": "arm", "lab.sweep": "many48 many120" if place < 48 else "many120", "mlflow.runColor": COLOURS[place % len(COLOURS)]}
        run_id = client.create_run(experiment, place, tags, run_name=f"lora.r={place}").info.run_id
        client.log_batch(run_id, [Metric(f"arm/{name}", (place * 7 % 120) / 120, 0, 0) for name in HEADLINE])
    return mlflow


@pytest.mark.parametrize("number", [pytest.param(48, marks=pytest.mark.bar), 120])
def test_of_more_than_ten_arms_the_link_draws_the_ten_best_and_says_so(many: MlflowSync, look: Any, served: Any, number: int) -> None:
    arms = ["rank8", *(f"delivered from elsewhere {place}" for place in range(1, number))]
    lines = links.of_sweep(many, Sweep(f"many{number}", "many", "command", arms, ["lora.r"]))
    assert f"the best 10 of {number} arms" in lines[2]
    written, charts = look(served(lines), f"{number}-arms")
    values = charts["arm/accuracy"]["values"]
    assert sorted(values) == sorted((place * 7 % 120) / 120 for place in range(number))[-10:]
    assert f"{min(number, 100)} matching runs" in written.replace("\n", " ")
