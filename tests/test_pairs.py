"""The default data set: balanced, reproducible, split cleanly, cached once, true to its own drawings."""

import io
import subprocess
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from lab.config import DataDial
from lab.data.scenes import CELL, PALETTES, SIDE, Kind, Palette, Scene, compose, compose_pair, draw, place
from lab.data.sets import pairs
from lab.data.statements import FAMILIES, HELD_BACK, TAUGHT, propose
from lab.errors import ConfigError

SMALL = {"num_train": 160, "num_minival": 40, "num_dev": 80}


def dial(**changes):
    return DataDial(name="pairs", **(SMALL | changes))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def splits(cache):
    return pairs.load(dial(), cache)


def rows(split):
    return [split[i] for i in range(len(split))]


def test_sizes_and_ids(splits):
    sizes = [len(splits.train), len(splits.minival), len(splits.dev)]
    assert sizes == [160, 40, 80]
    ids = [sample_id for split in (splits.train, splits.minival, splits.dev) for sample_id in split.sample_ids]
    assert len(set(ids)) == sum(sizes)
    assert [sample.sample_id for sample in rows(splits.dev)] == list(splits.dev.sample_ids)
    with pytest.raises(IndexError):
        splits.dev[80]


def test_labels_are_balanced_overall_and_within_each_sentence(splits):
    for split in (splits.train, splits.minival, splits.dev):
        groups = defaultdict(list)
        for sample in rows(split):
            groups[sample.question_group].append(sample)
        for group in groups.values():
            assert sorted(sample.answer.right == 0 for sample in group) == [False, False, True, True]
            assert len({sample.text for sample in group}) == 1
            assert len({sample.image_set for sample in group}) == 4


def test_image_sets_carry_several_sentences_and_never_cross_splits(splits):
    seen = Counter()
    for split in (splits.train, splits.minival, splits.dev):
        sets = defaultdict(list)
        for sample in rows(split):
            sets[sample.image_set].append(sample)
        assert all(len({sample.images for sample in group}) == 1 for group in sets.values())
        assert max(len(group) for group in sets.values()) == 4
        seen.update({picture.data for sample in rows(split) for picture in sample.images})
    assert max(seen.values()) == 1


def test_subset_is_the_family_and_most_are_held_back(splits):
    families = Counter(sample.subset for sample in rows(splits.train))
    assert set(families) == set(FAMILIES)
    held_back = sum(families[name] for name in HELD_BACK) / len(splits.train)
    assert held_back == pytest.approx(0.65)
    assert not set(TAUGHT) & set(HELD_BACK)


def test_same_dial_same_bytes_other_seed_other_rows(splits, tmp_path):
    again = pairs.load(dial(), tmp_path)
    assert rows(again.dev)[7].text == splits.dev[7].text
    assert [p.data for p in again.dev[7].images] == [p.data for p in splits.dev[7].images]
    other = pairs.load(dial(seed=1), tmp_path)
    assert [s.text for s in rows(other.dev)] != [s.text for s in rows(splits.dev)]


def test_a_smaller_split_is_a_prefix(splits, cache):
    smaller = pairs.load(dial(num_train=64), cache)
    for mine, whole in zip(rows(smaller.train), rows(splits.train), strict=False):
        assert (mine.sample_id, mine.text, mine.answer) == (whole.sample_id, whole.text, whole.answer)
        assert [p.data for p in mine.images] == [p.data for p in whole.images]


def test_pictures_are_png_of_64_pixels(splits):
    for picture in splits.dev[0].images:
        image = Image.open(io.BytesIO(picture.data))
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (SIDE, SIDE))
        assert "dev-images.arrow#" in picture.source


def test_the_cache_is_used_and_memory_mapped(splits, cache):
    folders = sorted(path.name for path in cache.iterdir())
    before = pa.total_allocated_bytes()
    again = pairs.load(dial(), cache)
    assert sorted(path.name for path in cache.iterdir()) == folders
    assert pa.total_allocated_bytes() - before < 10_000
    assert again.train[3].text == splits.train[3].text


def load_into(folder):
    return pairs.load(dial(num_train=32), folder).train[5].text


def test_two_processes_may_race(tmp_path):
    with ProcessPoolExecutor(2) as pool:
        texts = list(pool.map(load_into, [tmp_path, tmp_path]))
    assert len(set(texts)) == 1
    (left,) = tmp_path.iterdir()
    assert left.name.startswith("pairs-")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"difficulty": "mediun"}, "data.difficulty=mediun: legal values are easy, medium, hard.* mean 'medium'"),
        ({"num_train": 10}, "data.num_train=10: .* nearest: 8 or 12"),
        ({"num_dev": 0}, "data.num_dev=0: .* nearest: 4 or 8"),
        ({"seed": -1}, "data.seed=-1"),
        ({"root": "/somewhere"}, "data.root=/somewhere"),
    ],
)
def test_bad_values_are_named(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        pairs.load(dial(**changes), tmp_path)


@pytest.mark.parametrize("difficulty", PALETTES)
def test_difficulty_bounds_what_is_drawn(difficulty):
    palette, rng = PALETTES[difficulty], np.random.default_rng(0)
    for _ in range(50):
        for scene in compose_pair(rng, palette):
            assert palette.fewest <= len(scene.things) <= palette.most
            assert {thing.colour for thing in scene.things} <= set(palette.colours)
            assert {thing.shape for thing in scene.things} <= set(palette.shapes)
            assert len({thing.cell for thing in scene.things}) == len(scene.things)
            assert all((thing.y // CELL) * 4 + thing.x // CELL == thing.cell for thing in scene.things)


def test_a_scene_is_drawn_where_it_says():
    rng = np.random.default_rng(1)
    scene = compose(rng, PALETTES["hard"], [])
    pixels = np.asarray(draw(scene)).astype(int)
    for cell, thing in enumerate(scene.cells()):
        top, left = cell // 4 * CELL + CELL // 2, cell % 4 * CELL + CELL // 2
        nearest = pixels[round(thing.y), round(thing.x)] if thing else pixels[top, left]
        assert np.abs(nearest - (thing.rgb if thing else scene.background)).max() <= 2


def scene_of(*kinds):
    rng = np.random.default_rng(0)
    return Scene(tuple(place(rng, cell, *kind) for cell, kind in enumerate(kinds)), (240, 240, 240))


LEFT = scene_of(("red", "circle"), ("red", "circle"), ("blue", "square"))
RIGHT = scene_of(("red", "circle"), ("green", "square"), ("green", "star"))
TRUTH = {
    "The left image contains a red circle.": True,
    "There is a blue square in the right image.": False,
    "The right image contains no blue square.": True,
    "At least one image contains a star.": True,
    "There is a triangle in at least one image.": False,
    "The left image contains exactly two circles.": True,
    "The right image contains at least two circles.": False,
    "The left image contains a blue object and the right image contains a star.": True,
    "The left image contains more circles than squares.": True,
    "Both images contain a red circle.": True,
    "There is a star in both images.": False,
    "Neither image contains a triangle.": True,
    "Neither image contains a star.": False,
    "Only the left image contains a blue square.": True,
    "Only the left image contains a red circle.": False,
    "Exactly one image contains a star.": True,
    "Exactly one image contains a square.": False,
    "The left image contains more circles than the right image.": True,
    "The right image contains more squares than the left image.": False,
    "The two images contain the same number of squares.": True,
    "The two images contain the same number of circles.": False,
}


def test_statements_hold_when_they_should():
    rng, open_texts = np.random.default_rng(3), dict(TRUTH)
    palette = Palette(("red", "blue", "green"), ("circle", "square", "triangle", "star"), 3, 3)
    for family in FAMILIES:
        for _ in range(3000):
            statement = propose(rng, family, palette)
            if statement.text in open_texts:
                assert statement.holds(LEFT, RIGHT) == open_texts.pop(statement.text), statement.text
    assert not open_texts


def test_words_of_a_kind():
    assert Kind("orange", None).singular == "orange object"
    assert Kind(None, "star").plural == "stars"
    assert Kind("red", "circle").plural == "red circles"


def test_default_sizes_are_made_quickly(tmp_path):
    began = time.process_time()
    made = pairs.load(DataDial(name="pairs"), tmp_path)
    assert len(made.train) == 4000
    assert time.process_time() - began < 15


def test_import_is_light():
    code = "import sys, lab.data.sets.pairs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_pairs_are_drawn_ahead_by_another_process(composer, tmp_path, monkeypatch) -> None:
    """What is read then was not drawn here; what cannot be drawn is told where it is read, and nowhere else."""
    from lab import data
    from lab.data import ahead

    sizes = ("data.num_train=8", "data.num_minival=4", "data.num_dev=4", f"tracking.cache_dir={tmp_path}")
    x, wrong = composer(*sizes), composer(*sizes[1:], "data.num_train=6")
    ahead.begin([x, x, wrong])
    assert len(ahead.DRAWING) == 2
    ahead.finish()
    monkeypatch.setattr(pairs, "_write", None)
    assert len(data.load(x.data, tmp_path).train) == 8 and not ahead.DRAWING
    with pytest.raises(ConfigError, match="data.num_train=6"):
        data.load(wrong.data, tmp_path)
