"""`data=drawn_tables`: boxes are where the pixels are, layouts keep to their split, and no box without a look at the page scores."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import lab
from lab import data
from lab.data.images import decode
from lab.data.label_pages import Block, Layout, Page, compose_layout, compose_page, draw_page
from lab.errors import ConfigError
from lab.records import Region, Regions
from lab.statistics.detection import average_precision, iou
from lab.statistics.resampling import clusters_of_samples


def pages(number, seed=0):
    layouts = [compose_layout(np.random.default_rng([seed, index])) for index in range(number)]
    return [compose_page(np.random.default_rng([seed, 1, index]), layout) for index, layout in enumerate(layouts)]


def test_blocks_lie_apart_and_every_number_of_tables_occurs():
    drawn = pages(150)
    assert set(Counter(len(page.tables) for page in drawn)) == {0, 1, 2, 3}
    for page in drawn:
        boxes = [block.box for block in page.layout.blocks]
        assert not np.triu(iou(boxes, boxes), 1).any()
        assert all(0 <= x0 < x1 <= page.layout.size[0] and 0 <= y0 < y1 <= page.layout.size[1] for x0, y0, x1, y1 in page.tables)
        assert list(page.tables) == sorted(page.tables, key=lambda box: (box[1], box[0]))


@pytest.mark.parametrize("size", [(128, 128), (96, 112)])
@pytest.mark.parametrize("angle", [0.0, -6.0, 5.0])
def test_a_box_is_where_the_pixels_are(size, angle):
    table = Block("table", (24.0, 30.0, 70.0, 62.0), 4, 2, "grid")
    page = Page(Layout(size, (table,)), (2.0, -1.5), angle, 5)
    values = np.asarray(draw_page(page)).astype(int)
    rows, columns = np.nonzero((abs(values - np.median(values, axis=(0, 1))) > 60).any(-1))
    np.testing.assert_allclose(page.tables[0], (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1), atol=1.6)


def test_the_same_dial_draws_the_same_pages_and_only_when_asked(load):
    splits, again, fewer = load(), load(), load(num_dev=4)
    assert splits.kind == Regions.kind and len(splits.train) == 30 and splits.dev.index(3).images[0].data is None
    assert splits.dev[3] == again.dev[3] == fewer.dev[3] and decode(splits.dev[3].images[0]).size == splits.dev.index(3).answer.size
    assert load(seed=1).dev[3].images[0].data != splits.dev[3].images[0].data


def test_no_layout_is_in_two_splits(load):
    splits = load()
    drawn = {name: getattr(splits, name) for name in ("train", "minival", "dev")}
    layouts = {name: {split.page(index).layout for index in range(len(split))} for name, split in drawn.items()}
    assert not layouts["train"] & layouts["dev"] and not layouts["train"] & layouts["minival"] and not layouts["minival"] & layouts["dev"]
    assert len(layouts["train"]) == 10 == len({splits.train.index(index).image_set for index in range(30)})
    assert clusters_of_samples([splits.train.index(index) for index in range(30)]).max() + 1 == 10, "pages of one layout are resampled together"


def test_the_mean_box_is_rarely_right(load):
    dev = load(num_dev=300).dev
    answers = [dev.index(number).answer for number in range(300)]
    mean = np.mean([region[1:] for answer in answers for region in answer.regions], axis=0)
    value = average_precision([answer.regions for answer in answers], [[Region("table", *mean)]] * len(answers), [[1.0]] * len(answers))
    assert 0 < value["AP50"] < 0.15


def test_none_of_the_pages_is_in_the_pretraining():
    sources = Path(lab.__file__).parent.parent.joinpath("tools/pretraining").glob("*.py")
    assert not [source.name for source in sources if "label_pages" in source.read_text() or "drawn_tables" in source.read_text()]


def test_what_it_does_not_read_is_refused(load):
    with pytest.raises(ConfigError, match="data.root"):
        load(root="somewhere")
    with pytest.raises(ConfigError, match="num_dev=-1"):
        load(num_dev=-1)


@pytest.fixture
def load(tmp_path):
    def load_small(**values):
        chosen = {"num_train": 30, "num_minival": 6, "num_dev": 12} | values
        keys = [f"{key}={value}" for key, value in chosen.items()]
        return data.load(data.dial_of("drawn_tables", keys, "test"), tmp_path)

    return load_small
