"""The laboratory from Python: the same runs as the commands', as tables and figures, and nothing of Hydra's left behind."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser

import lab
from lab import Experiment
from lab import run as running
from lab.answers import predictions
from lab.cli import shipped
from lab.config import identity
from lab.data.images import decode
from lab.errors import ConfigError, DataError
from lab.experiment import literal
from lab.store import runs

pytestmark = pytest.mark.usefixtures("nominal_costs")


@pytest.fixture(scope="module")
def make(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Experiment]:
    """Small experiments that share their folders."""
    root = tmp_path_factory.mktemp("experiment")
    values = {
        "model": {"path": tiny_folder}, "data": {"num_train": 16, "num_minival": 8, "num_dev": 24}, "sweep": {"self_check": False},
        "trainer": {"max_steps": 2, "batch_size": 4, "val_every": 1}, "evaluation": {"latency_examples": 0, "verify": False},
        "tracking": {"enabled": False, "runs_dir": root / "runs", "cache_dir": root / "cache"},
    }  # fmt: skip
    return lambda *overrides: Experiment(*overrides, progress=False, **values)


@pytest.fixture(scope="module")
def trained(make) -> Experiment:
    """One that the command has trained: what Python asks of it is there."""
    experiment = make("lora.r=2")
    running.run_alone(experiment.config, "python -m lab.train lora.r=2", time.time())
    return experiment


def stamps(experiment: Experiment) -> dict[Path, int]:
    """When each file of the run was written."""
    return {path: path.stat().st_mtime_ns for path in experiment.folder.rglob("*") if path.is_file()}


def test_overrides_and_keywords_make_the_command_s_experiment(composer) -> None:
    x = composer("data=pairs", "lora=attention", "lora.r=4", "seed=1", "prompt.separator=' | '", "trainer.max_steps=null", "trainer.max_epochs=0.5")
    values = {"data": "pairs", "seed": 1, "prompt": {"separator": " | "}, "trainer": {"max_steps": None, "max_epochs": 0.5}}
    experiment = Experiment("lora=attention", "lora.r=4", **values)
    assert experiment.config == x and experiment.identity == identity(x)
    with pytest.raises(AttributeError, match="no attribute 'Experimint'"):
        lab.Experimint  # noqa: B018
    with pytest.raises(ConfigError, match="lora.r=-1"):
        Experiment("lora.r=-1")


TEXTS = ("it's", 'a "b"', "back\\slash", "end\\", "a\\'b", "a,b", "null", "12", "", " x ", "Frage: wie?", "[a]", "grün", "$x", "data/a.csv")


@pytest.mark.parametrize("value", TEXTS)
def test_any_text_reaches_the_config_as_it_is(value: str) -> None:
    override = OverridesParser.create().parse_override(f"prompt.system={literal(value)}")
    assert override.value() == value and isinstance(override.value(), str) and not override.is_sweep_override()
    assert OverridesParser.create().parse_override(f"k={literal([value, 1, None, True])}").value() == [value, 1, None, True]


def test_another_hydra_is_left_as_it_was() -> None:
    Experiment("lora.r=2")
    assert not GlobalHydra.instance().is_initialized()
    with initialize_config_dir(str(shipped("conf")), version_base="1.3"):
        own = GlobalHydra.instance().hydra
        Experiment("lora.r=2")
        assert GlobalHydra.instance().hydra is own
        with pytest.raises(ConfigError):
            Experiment("lora.r=-1")
        assert GlobalHydra.instance().hydra is own


def test_a_run_of_the_command_is_not_trained_again(trained: Experiment) -> None:
    before = stamps(trained)
    curves = trained.train()
    assert curves["minival/nll"].notna().sum() >= 2 and stamps(trained) == before
    metrics, run = trained.evaluate(), trained.run()
    assert list(metrics.columns) == ["estimate", "low", "high", "n"] and set(metrics["n"]) == {24}
    assert all(metrics.loc[name, "estimate"] == pytest.approx(run.metrics[f"dev/{name}"]) for name in metrics.index)
    assert metrics.loc["accuracy", "low"] < metrics.loc["accuracy", "estimate"] < metrics.loc["accuracy", "high"]


def test_predictions_are_those_of_the_run_and_a_gallery_is_written(trained: Experiment, tmp_path: Path) -> None:
    from lab import data

    sample = data.load(trained.config.data, Path(trained.config.tracking.cache_dir)).dev[0]
    for place, picture in enumerate(sample.images):
        decode(picture).save(tmp_path / f"{place}.png")
    pair = [tmp_path / "0.png", tmp_path / "1.png"]
    frame = trained.predict(pair, sample.text, to=tmp_path / "out")
    stored = predictions.read(runs.own_predictions(trained.run(), trained.folder, "dev"))
    assert (frame["answer"][0], frame["probability"][0]) == (stored.answered[0], stored.confidence[0]) and frame.attrs["skipped"] == []
    assert (tmp_path / "out" / "gallery.html").is_file()
    with pytest.raises(DataError, match="nothing is overwritten unasked"):
        trained.predict(pair, sample.text, to=tmp_path / "out")
    before = trained._predictor
    assert len(trained.predict(pair, "The left picture is red.")) == 1 and trained._predictor is before
    runs.save(trained.runs_dir, replace(trained.run(), ended="2030-01-01T00:00:00+00:00"))  # as by a command that trains it again
    assert trained.predict(pair, sample.text)["probability"][0] == frame["probability"][0] and trained._predictor is not before


@pytest.mark.usefixtures("blank_figures")
def test_a_sweep_adds_the_arms_that_are_missing(trained: Experiment, make, tmp_path: Path) -> None:
    before = stamps(trained)
    sweep = trained.sweep("lora.r=2,4")
    table = sweep.table
    assert table.index.tolist() == ["lora.r=2", "lora.r=4"] and set(table["status"]) == {"FINISHED"} and stamps(trained) == before
    assert table["run"].tolist() == [trained.identity, make("lora.r=4").identity]
    assert (table["accuracy_low"] <= table["accuracy"]).all() and (table["trainable_parameters"].diff()[1:] > 0).all()
    assert table["trainable_parameters"].dtype == "Int64"
    (record,) = runs.all_sweeps(trained.runs_dir)
    assert record.command.endswith("lora.r=2,4 -m") and record.dials == ["lora.r"] and "lora.r=4" in sweep._repr_html_()
    assert len(sweep.claims) == 1 and sweep.figure().png.startswith(b"\x89PNG")
    assert trained.sweep("lora.r=4,2").table.index.tolist() == ["lora.r=4", "lora.r=2"]  # also within the same second
    assert trained.sweep("lora.r=2,4").table.index.tolist() == ["lora.r=2", "lora.r=4"]
    assert sweep.write(tmp_path / "report").is_file() and len(trained.report().table) == 1


def test_what_has_not_run_says_so(make) -> None:
    with pytest.raises(DataError, match="has not run. Call train"):
        make("lora.r=3").evaluate()
