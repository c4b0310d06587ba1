"""Augmentations: boxes move with what they are around, slivers go whole, views depend on seed, epoch and sample alone."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
from box_files import coco, draw
from hypothesis import given
from hypothesis import strategies as st
from kills import PowerCut, cut, essence
from PIL import Image

from lab import run as running
from lab.config import Augment, augments, identity
from lab.data import images
from lab.data.images import decode
from lab.data.splits import Records
from lab.errors import ConfigError
from lab.records import Picture, Region, Regions, Sample
from lab.run import check
from lab.training.augmentation import Views, encoded, view
from lab.training.datamodule import DataModule
from lab.training.ordering import SeededOrder
from lab.training.resuming import CheckpointCallback

ALL = Augment(crop=0.4, scale=[0.8, 1.4], flip=0.5, colour=0.2, min_area=0.6)
COLOURS = ((250, 20, 20), (20, 20, 250), (20, 200, 20))


def sample(boxes: int = 3) -> Sample:
    """A white picture of 120 x 90 with rectangles of a colour each, boxed exactly."""
    image = Image.new("RGB", (120, 90), "white")
    places = [(8, 6, 40, 50), (60, 10, 110, 30), (50, 45, 90, 85)][:boxes]
    for colour, place in zip(COLOURS, places, strict=False):
        image.paste(colour, place)
    regions = tuple(Region(name, *place) for name, place in zip(("red", "blue", "green"), places, strict=False))
    return Sample("s", "Detect all objects.", (Picture("s.png", encoded(image), size=(120, 90)),), Regions(regions, (120, 90)), "s", "s")


def painted(picture: Picture, label: str) -> tuple[float, float, float, float] | None:
    """Where a colour is in a picture: the box around the pixels nearest to it."""
    pixels = np.asarray(decode(picture)).astype(int)
    of = ("red", "blue", "green").index(label)
    others = [at for at in range(3) if at != (0, 2, 1)[of]]
    mask = pixels[..., (0, 2, 1)[of]] > 1.5 * pixels[..., others].max(axis=-1) + 20
    if not mask.any():
        return None
    ys, xs = np.nonzero(mask)
    return xs.min(), ys.min(), xs.max() + 1, ys.max() + 1


@given(st.integers(0, 2**20), st.integers(0, 3))
def test_boxes_lie_around_what_they_lay_around(epoch: int, boxes: int) -> None:
    """Within two pixels, as scaled edges are blurred; what a crop leaves too little of has no box, and the answer is of the view's size."""
    seen = view(sample(boxes), ALL, 0, epoch)
    (picture,) = seen.images
    assert isinstance(seen.answer, Regions) and seen.answer.size == picture.size == images.decode(picture).size
    for region in seen.answer.regions:
        assert region.valid(seen.answer.size) and np.abs(np.subtract(painted(picture, region.label), region[1:])).max() <= 2
    assert view(sample(boxes), ALL, 0, epoch, pixels=False).answer == seen.answer, "the answer is known without a look at the pixels"
    assert list(seen.answer.regions) == sorted(seen.answer.regions, key=lambda region: (region.y0, region.x0))


def test_a_sliver_is_no_target() -> None:
    """A box is kept by its share that is left; the least share is an option, and box and label go together."""
    kept: dict[float, int] = {}
    for least in (0.0, 0.5, 0.9, 1.0):
        augment = Augment(crop=0.2, min_area=least)
        answers = [view(sample(), augment, 0, epoch, pixels=False).answer for epoch in range(60)]
        kept[least] = sum(len(answer.regions) for answer in answers)
        whole = {"red": 32 * 44, "blue": 50 * 20, "green": 40 * 40}
        for answer in answers:
            assert all((r.x1 - r.x0) * (r.y1 - r.y0) >= least * whole[r.label] - 1e-6 for r in answer.regions)
    assert kept[0.0] > kept[0.5] > kept[0.9] > kept[1.0] > 0


def test_views_depend_on_seed_epoch_and_sample_alone() -> None:
    import torch

    state = torch.random.get_rng_state()
    one, again = view(sample(), ALL, 3, 7), view(sample(), ALL, 3, 7)
    assert one == again and one.images[0].data == again.images[0].data and torch.equal(torch.random.get_rng_state(), state)
    others = [view(sample(), ALL, 4, 7), view(sample(), ALL, 3, 8), view(dataclasses.replace(sample(), sample_id="t"), ALL, 3, 7)]
    assert all(other.images[0].data != one.images[0].data for other in others)
    assert view(sample(), Augment(), 0, 0).answer == sample().answer


def test_a_resumed_order_goes_on_with_the_views_it_would_have_seen() -> None:
    whole = list(SeededOrder(5, seed=1, epochs=3, views=True))
    assert sorted(whole) == list(range(15)) and [place % 5 for place in whole] == list(SeededOrder(5, seed=1, epochs=3))
    for start in (0, 3, 5, 11):
        assert list(SeededOrder(5, seed=1, epochs=3, start=start, views=True)) == whole[start:]


def test_augmentations_are_part_of_the_name_and_refused_where_no_box_would_move(composer, tmp_path) -> None:
    file = coco(tmp_path, draw(tmp_path, 4))
    plain = composer("data=boxes", f"data.path={file}")
    changed = composer("data=boxes", f"data.path={file}", "data.augment.crop=0.5")
    assert identity(plain) != identity(changed) and augments(changed) and not augments(plain)
    assert identity(plain) == identity(composer("data=boxes", f"data.path={file}", "data.augment.flip=0.0"))
    for overrides, sentence in {
        ("data.augment.crop=0.5",): "data.augment.crop=0.5: data=pairs has no boxes that would move",
        ("data=easy_vqa", "data.augment.colour=0.1"): "data.augment.colour=0.1: data=easy_vqa has no boxes",
        ("data=boxes", f"data.path={file}", "data.augment.scale=[1.2,0.8]"): "the least factor comes first",
    }.items():
        with pytest.raises(ConfigError, match=sentence.replace("[", r"\[")):
            check(composer(*overrides))


def test_a_picture_that_is_spoken_of_by_its_sides_is_not_mirrored() -> None:
    told = dataclasses.replace(sample(), text="Where is the left one?")
    with pytest.raises(ConfigError, match="data.augment.flip=0.5: sample s speaks of left or right.*Give data.augment.flip=0"):
        Views(Records([sample(), told]), None, Augment(flip=0.5), 0)  # type: ignore[arg-type]
    assert len(Views(Records([sample()]), None, Augment(flip=0.5), 0)) == 1  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def compose(composer, tiny_folder, tmp_path_factory):
    """Experiments on a drawn file; where: the name of their folder of runs."""
    root = tmp_path_factory.mktemp("augmented")
    file = coco(root, draw(root, 16))
    small = (
        "trainer.max_steps=3", "trainer.batch_size=2", "trainer.accumulate_grad_batches=2", "trainer.save_every=1", "evaluation.splits=[dev]",
        "evaluation.latency_examples=0", "evaluation.verify=false", "evaluation.max_new_tokens=2", "tracking.enabled=false", "data.num_dev=1",
    )  # fmt: skip

    def make(*overrides: str, where: str = "whole"):
        places = (f"data.path={file}", f"tracking.runs_dir={root / where}", f"tracking.cache_dir={root / 'cache'}")
        return composer("data=boxes", f"model.path={tiny_folder}", *places, *small, *overrides)

    return make


AUGMENTED = ("data.augment.crop=0.5", "data.augment.scale=[0.8,1.2]", "data.augment.flip=0.5", "data.augment.colour=0.2")


@pytest.fixture(scope="module")
def prepared(compose):
    return running.prepare(compose(*AUGMENTED))


def test_only_what_is_learned_from_is_changed_and_every_token_counts_as_much(compose, prepared) -> None:
    """What is watched comes as it is; the weights of the forwards of a step say how many tokens the views in them have."""
    x = compose(*AUGMENTED)
    encoded = prepared.encoded(x)
    assert prepared.store(x, prepared.vlm, encoded["train"].encoder) is None
    plain, augmented = (DataModule(encoded["train"], encoded["minival"], x.trainer, (2, 2), x.seed, 3, augment=how) for how in (None, x.data.augment))
    for one, other in zip(plain.val_dataloader(), augmented.val_dataloader(), strict=True):
        assert all(a.media.pixels["pixel_values"].equal(b.media.pixels["pixel_values"]) for a, b in zip(one, other, strict=True))
    views, usual = (list(module.train_dataloader()) for module in (augmented, plain))
    assert [batch.sample_ids for batch in views] == [batch.sample_ids for batch in usual], "in one order"
    assert any(a.media.grids != b.media.grids for a, b in zip(views, usual, strict=True))
    for step in range(3):
        assert sum(augmented.weight(batch, step) for batch in views[2 * step : 2 * step + 2]) == pytest.approx(2.0)


@pytest.mark.usefixtures("nominal_costs", "blank_figures")
def test_a_run_cut_off_goes_on_with_the_views_it_would_have_seen(compose, prepared, monkeypatch, caplog) -> None:
    whole, x = compose(*AUGMENTED), compose(*AUGMENTED, where="cut")
    running.run_arm(whole, prepared, running.new_run(whole, "command"), time.time())
    with monkeypatch.context() as patch:
        cut(patch, CheckpointCallback, "on_train_batch_start", lambda trainer: trainer.global_step == 2)
        with pytest.raises(PowerCut):
            running.run_arm(x, prepared, running.new_run(x, "command"), time.time())
    again = running.run_alone(x, "command", time.time())
    assert again.facts["resumed_at_step"] == 2 and essence(x) == essence(whole)
    assert "features are not cached: data.augment shows another picture in every epoch" in caplog.text
