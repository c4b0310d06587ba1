"""The order of training is a function of (seed, epoch, position), whatever is mixed; what is seen of each source is what was asked."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab.records import Source
from lab.training.ordering import Blocks, SeededOrder, hash_by_step, places, realised

ONE_AND_NINE = (Source("one", 1, 0.5), Source("nine", 9, 0.5))


def order(sources: tuple[Source, ...], epochs: int = 3, start: int = 0, seed: int = 7) -> list[int]:
    return list(SeededOrder(sum(places(sources)), seed, epochs, start, sources=sources))


def test_without_weights_every_row_stands_once_an_epoch() -> None:
    sources = (Source("a", 5), Source("b", 120), Source("c", 75))
    whole = order(sources)
    for epoch in range(3):
        assert sorted(whole[epoch * 200 : (epoch + 1) * 200]) == list(range(200))
    assert whole[:200] != whole[200:400]


@pytest.mark.parametrize("start", [1, 20, 199, 200, 201, 599])
def test_an_order_begins_anywhere(start: int) -> None:
    sources = (Source("a", 5, 1.0), Source("b", 120, 3.0), Source("c", 75, 1.0))
    assert order(sources, start=start) == order(sources)[start:]


def test_weights_are_shares_of_what_is_seen() -> None:
    """Of two sources of 1 and 9 rows at equal weights each is half; every row of the larger comes before any of them comes again."""
    one, nine = realised(ONE_AND_NINE)
    assert (one.share, one.times, nine.share, nine.times) == (0.5, 5.0, 0.5, 5 / 9)
    whole = order(ONE_AND_NINE, epochs=9)
    for epoch in range(9):
        assert Counter(row == 0 for row in whole[10 * epoch : 10 * epoch + 10]) == {True: 5, False: 5}
    larger = [row for row in whole if row]
    assert set(Counter(larger).values()) == {5}
    rounds = [whole[10 * epoch : 10 * epoch + 10] for epoch in range(9)]
    assert max(Counter(row for part in rounds[:2] for row in part if row).values()) == 2, "ten of nine: one a second time"


def test_epochs_beside_a_weight_is_the_most_that_a_row_is_seen() -> None:
    sources = (Source("one", 1, 0.5, epochs=2), Source("nine", 9, 0.5))
    assert places(sources) == [2, 5]
    assert [(each.times, round(each.share, 3)) for each in realised(sources)] == [(2.0, 0.286), (5 / 9, 0.714)]


def test_epochs_alone_repeats_rows_or_takes_them_in_turn() -> None:
    sources = (Source("twice", 10, epochs=2), Source("half", 10, epochs=0.5))
    whole = order(sources, epochs=2)
    assert Counter(Counter(row for row in whole[:25] if row < 10).values()) == {2: 10}
    halves = [{row for row in whole[25 * epoch : 25 * epoch + 25] if row >= 10} for epoch in range(2)]
    assert halves[0].isdisjoint(halves[1]) and halves[0] | halves[1] == set(range(10, 20))


@given(
    st.lists(st.tuples(st.integers(0, 40), st.floats(0.01, 9)), min_size=1, max_size=4), st.integers(0, 2**32 - 1), st.integers(1, 4), st.booleans()
)
def test_no_row_is_seen_twice_more_than_another_of_its_source(shapes, seed: int, epochs: int, weighed: bool) -> None:
    sources = tuple(Source(f"{i}", size, value if weighed else None, None if weighed else value) for i, (size, value) in enumerate(shapes))
    seen = Counter(order(sources, epochs, seed=seed))
    first = 0
    for source, number in zip(sources, places(sources), strict=True):
        counts = [seen[row] for row in range(first, first + source.size)]
        assert sum(counts) == number * epochs
        assert not counts or max(counts) - min(counts) <= 1
        first += source.size
    assert sum(seen.values()) == sum(places(sources)) * epochs


def test_by_image_deals_blocks_of_at_most_k_questions_of_one_picture() -> None:
    """Every row once, blocks whole wherever the order begins, rows of a picture among blocks and blocks themselves in another order each epoch;
    a large picture comes no earlier than a small one."""
    sizes = [1, 2, 3, 9, 9, 4, 1]
    pictures = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))[torch.randperm(sum(sizes))]
    drawn = [list(SeededOrder(len(pictures), seed, 2, blocks=Blocks(pictures, 4))) for seed in range(200)]
    for whole in drawn[:5]:
        for epoch in (whole[: len(pictures)], whole[len(pictures) :]):
            assert sorted(epoch) == list(range(len(pictures)))
        runs = [len(list(run)) for _, run in itertools.groupby(whole[: len(pictures)], key=lambda row: int(pictures[row]))]
        assert len(runs) <= sum(-(-size // 4) for size in sizes) and max(runs) <= 9
        assert whole[: len(pictures)] != whole[len(pictures) :]
        start = SeededOrder(len(pictures), drawn.index(whole), 2, start=31, blocks=Blocks(pictures, 4))
        assert list(start) == whole[31:]
    first = Counter(int(pictures[whole[0]]) for whole in drawn)
    assert first[3] + first[4] < 0.7 * len(drawn) and first[0] + first[6] > 0.1 * len(drawn), "six of eleven blocks are of the two large ones"
    one, other = (hash_by_step(whole[:8], [f"id{row}" for row in range(len(pictures))], 4) for whole in drawn[:2])
    assert one != other and one != hash_by_step(drawn[0][:8], [f"id{row}" for row in range(len(pictures))], 2)
