"""Runs on clips: the same with and without cached features, cut and gone on with, recorded, checked, shown, and refused where they cannot be."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import clips
import pytest
from kills import PowerCut, cut, essence
from PIL import Image

from lab import data
from lab import run as running
from lab.artifacts import contract
from lab.config import Experiment, identity
from lab.data import splits, video
from lab.data.controls import ControlSplit
from lab.errors import LabError
from lab.export import main
from lab.records import Choice, Clip, Picture, Sample, Sampling, Splits
from lab.report.gallery import MOST_FRAMES, pictures
from lab.run.sharing import prepare
from lab.store import clip_files, curve_files, runs
from lab.training.resuming import CheckpointCallback

pytestmark = pytest.mark.usefixtures("nominal_costs", "blank_figures")

PARTS = {"train": range(8), "minival": range(8, 10), "dev": range(12, 16)}
SMALL = ("data.name=moving_shapes", "data.difficulty=null", "data.num_train=null", "data.num_minival=null", "data.num_dev=null",
         "trainer.max_steps=3", "trainer.save_every=2", "trainer.batch_size=4")  # fmt: skip


def sample(seed: int, rule: Sampling) -> Sample:
    """A statement about where a shape moves, beside a still picture in every third."""
    clip, motion = clips.moving(seed, number=10 + seed % 3, sampling=rule)
    statement = f"The {motion.thing.colour} {motion.thing.shape} moves {'left' if seed % 2 else motion.answer}."
    still = (Picture(f"still#{seed}", data.controls.grey(64, 64)),) if seed % 3 == 0 else ()
    right = Choice.truth(not seed % 2 or motion.answer == "left")
    return Sample(f"{seed}", statement, (*still, clip), right, f"{seed}", statement)


@pytest.fixture(scope="module", autouse=True)
def moving_shapes():
    """A data set of drawn clips, sampled as `data.video` says."""

    def load(dial, cache: Path) -> Splits:
        rule = video.sampling(dial.video)
        parts = {part: [sample(seed, rule) for seed in seeds] for part, seeds in PARTS.items()}
        return splits.finish(parts, (), dial, cache, ())

    data.register("moving_shapes", load)
    data.OWN["moving_shapes"] = data.DataSet(load, asks="statement", clips=True)
    yield
    del data.OWN["moving_shapes"]


def folder(x: Experiment) -> Path:
    return runs.folder(Path(x.tracking.runs_dir), identity(x))


def losses(x: Experiment) -> list[float]:
    return [row["train/loss"] for row in curve_files.read(folder(x)) if "train/loss" in row]


@pytest.fixture(scope="module")
def whole(composer, tiny_folder, tmp_path_factory):
    """A run that was never cut, with cached features."""
    path = tmp_path_factory.mktemp("whole")
    places = (f"tracking.runs_dir={path}/runs", f"tracking.cache_dir={path}/cache", "tracking.enabled=false", "evaluation.latency_examples=0")
    x = composer(f"model.path={tiny_folder}", *SMALL, *places, "data.video.num_frames=4")
    return x, running.run_alone(x, "command", time.time())


def test_a_run_says_what_it_was_shown_and_passes_its_gate(whole) -> None:
    """The gate compares it with plain Transformers over the exported folder, which samples and resizes by its own processor."""
    x, run = whole
    assert run.metrics["verify/passed"] == 1.0 and {check["passed"] for check in run.facts["verify"]} <= {True, None}
    assert next(check for check in run.facts["verify"] if check["name"] == "plain folder")["passed"]
    rows = [json.loads(line) for line in (folder(x) / clip_files.NAME).read_text().splitlines()]
    assert len(rows) == 14 == len({row["source"] for row in rows})
    for row in rows:
        assert len(row["shown"]) == 4 and row["grid"][0] == 2 and row["tokens"] == row["grid"][0] * row["grid"][1] * row["grid"][2] // 4
        assert row["seconds"] == pytest.approx(row["frames"] / row["fps"]) and row["times"] == sorted(row["times"])
    kept = contract.load(folder(x))
    assert kept["clips"]["number"] == 14 and kept["clips"]["frames/mean"] == 4.0 and kept["video"]["sampling"]["num_frames"] == 4
    assert run.facts["clips"] == kept["clips"]


def test_losses_are_the_same_without_cached_features(whole, small) -> None:
    x, run = whole
    other = small(*SMALL, "data.video.num_frames=4", "trainer.feature_cache=false")
    running.run_alone(other, "command", time.time())
    assert losses(other) == pytest.approx(losses(x), abs=1e-6)


def test_a_cut_run_on_clips_ends_as_the_whole_one(whole, small, monkeypatch) -> None:
    x, _ = whole
    again = small(*SMALL, "data.video.num_frames=4", f"tracking.cache_dir={x.tracking.cache_dir}")
    with monkeypatch.context() as patch:
        cut(patch, CheckpointCallback, "on_train_batch_start", lambda trainer: trainer.global_step == 2)
        with pytest.raises(PowerCut):
            running.run_alone(again, "command", time.time())
    running.run_alone(again, "command", time.time())
    (whole, resumed), told = (essence(one) for one in (x, again)), ("adapter", "curves", "predictions")
    assert [resumed[name] for name in told] == [whole[name] for name in told]


def test_features_are_kept_apart_by_the_rule_of_sampling(whole, small) -> None:
    x, _ = whole
    first = prepare(small(*SMALL, "data.video.num_frames=4")).encoded(small(*SMALL, "data.video.num_frames=4"))["dev"]
    other = prepare(small(*SMALL, "data.video.num_frames=6")).encoded(small(*SMALL, "data.video.num_frames=6"))["dev"]
    (still, clip), (same, resampled) = first.image_keys(0), other.image_keys(0)
    assert still == same and clip != resampled
    assert first.store.key == other.store.key and first[1].grids != other[1].grids


def test_an_fps_without_effect_is_told(small) -> None:
    x = small(*SMALL, "data.video.fps=0.5")
    prepared = prepare(x)
    (note,) = (note for note in prepared.splits_of(x).notes if "changes nothing" in note)
    assert note.startswith("data.video.fps changes nothing for 14 of 14 clips")
    quiet = small(*SMALL, "data.video.fps=3", "data.video.min_frames=2")
    assert not [note for note in prepare(quiet).splits_of(quiet).notes if "changes nothing" in note]


def test_a_blank_clip_costs_what_the_clip_does(whole, small) -> None:
    split = data.load(small(*SMALL).data, Path(whole[0].tracking.cache_dir)).dev
    for index in range(3):
        before, after = split[index].images[-1], ControlSplit(split, "blank")[index].images[-1]
        assert isinstance(before, Clip) and isinstance(after, Clip)
        assert (after.footage, after.sampling) == (before.footage, before.sampling) and len(set(video.read(after, [0, 3]).flat)) == 1


def test_a_clip_is_shown_as_the_frames_that_the_model_saw(whole) -> None:
    x, _ = whole
    shown = clip_files.shown(folder(x))
    samples = [sample(seed, Sampling(fps=None, num_frames=4)) for seed in (13, 15)]
    (strip,), (still, other) = (pictures(samples, shown=shown)[name] for name in ("13", "15"))
    assert Image.open(io.BytesIO(strip)).size == (4 * 66 - 2, 64) == Image.open(io.BytesIO(other)).size
    assert Image.open(io.BytesIO(still)).size == (64, 64)
    clip = samples[0].images[0]
    assert Image.open(io.BytesIO(strip)).convert("RGB").crop((66, 0, 130, 64)).tobytes() == video.read(clip, [shown[clip.source][1]])[0].tobytes()
    assert len(video.filmstrip(clip, MOST_FRAMES)) == MOST_FRAMES


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (("vision_tokens=pool", "vision_tokens.budget=4"), "vision_tokens=pool: .*clips.*data.video.num_frames"),
        (("vision_tokens=resampler", "vision_tokens.budget=4"), "vision_tokens=resampler: .*clips"),
        (("conditioning=cross_attention",), "conditioning=cross_attention: .*times of a clip"),
        (("model=git_base_vqav2", "lora.target_modules=all-linear", "model.path=nowhere"), "takes pictures, and no video"),
        (("data.video.fps=2", "data.video.num_frames=4"), "a clip is sampled by one of them"),
        (("data.video.min_frames=9", "data.video.max_frames=8"), "data.video.min_frames=9"),
    ],
)
def test_what_clips_cannot_have_is_refused_before_a_model_loads(small, monkeypatch, keys, reason) -> None:
    monkeypatch.setattr("lab.run.sharing.load_base", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(LabError, match=reason):
        prepare(small(*SMALL, *keys))


@pytest.mark.bar
def test_an_exported_folder_answers_about_clips_as_the_run_does(whole, tmp_path) -> None:
    """In a process that imports Transformers and PEFT alone, from the frames and times that the run's model was shown."""
    x, run = whole
    assert main(["--run", run.identity, "--runs-dir", x.tracking.runs_dir, "--to", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
