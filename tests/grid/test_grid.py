"""The grid holds what it says, refuses what it says and nothing else, and a slice of it runs: `make grid` runs it all."""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path

import pytest

from grid import baseline, rows
from grid.commands import FINISHED, names, run
from grid.dimensions import (
    BENCHMARKS,
    BOXES,
    CONVERSATIONS,
    DIMENSIONS,
    FAMILIES,
    FIRST,
    MIXED,
    PROMPTS_ELSEWHERE,
    Row,
    family_of,
    options,
    overrides,
    refused,
)  # fmt: skip
from grid.drawing import draw
from lab.config import DIALS, Experiment
from lab.errors import LabError
from lab.run import check

MOST_REFUSED = 0.15
SLICE = rows.single()


@pytest.fixture(scope="module")
def never() -> set[rows.Pair]:
    return rows.impossible()


@pytest.fixture(scope="module")
def grid() -> list[Row]:
    return rows.grid(seed=0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid")
    draw(folder)
    return folder


def enums(schema: type) -> dict[str, type[Enum]]:
    """Every key of the schema that takes the values of an Enum, in a list or alone."""
    hints = typing.get_type_hints(schema)
    found: dict[str, type[Enum]] = {}
    for field in fields(schema):
        hint = hints[field.name]
        if is_dataclass(hint):
            found |= {f"{field.name}.{key}": kind for key, kind in enums(hint).items()}
        for kind in (hint, *typing.get_args(hint)):
            found |= {field.name: kind} if isinstance(kind, type) and issubclass(kind, Enum) else {}
    return found


def test_every_option_and_every_value_of_an_enum_is_in_the_grid() -> None:
    given = {override for values in DIMENSIONS.values() for chosen in values.values() for override in chosen}
    outside = (*BOXES, *BENCHMARKS, *CONVERSATIONS, *MIXED)
    inside = {
        "model": lambda option: family_of(option) in FAMILIES, "data": lambda option: option not in outside,
        "prompt": lambda option: option not in PROMPTS_ELSEWHERE,
    }  # fmt: skip
    options_given = {f"{dial}={option}" for dial in DIALS for option in options(dial) if dial not in inside or inside[dial](option)}
    elsewhere = {"sweep.race", "tracking.also", "model.projector_init"}  # a race needs three arms; rows track nothing; of two sources
    enums_given = {(key, value.value) for key, kind in enums(Experiment).items() for value in kind if key not in elsewhere}
    assert options_given <= given
    assert {(key, value) for key, value in enums_given if not {f"{key}={value}", f"{key}=[{value}]"} & given} == set()


def test_rows_hold_every_pair(grid: list[Row], never: set[rows.Pair]) -> None:
    assert set().union(*map(rows.pairs_of, grid)) == rows.all_pairs()
    turned_away = [row for row in grid if refused(row)]
    assert set().union(*map(rows.pairs_of, turned_away)) >= never
    assert len(turned_away) <= MOST_REFUSED * len(grid)


def test_no_pair_that_finished_before_is_refused(never: set[rows.Pair]) -> None:
    """A pair is refused if no row that holds it can finish."""
    assert never & baseline.finished_pairs() == set()


@pytest.mark.parametrize("row", rows.each_refused(shortest=True), ids=lambda row: ", ".join(f"{k}={v}" for k, v in row.items() if v != FIRST[k]))
def test_a_refusal_names_its_keys(row: Row, root: Path, composer: Callable[..., Experiment]) -> None:
    """Each alone, beside the defaults, before anything is loaded: by the freezing of the config or by `lab.run.check`."""
    given = [one.replace("{root}", str(root)).replace("{parameters}", "1000000") for one in overrides(row) if "launcher" not in one]
    with pytest.raises(LabError) as error:
        check(composer(*given))
    (refusal,) = refused(row)
    told = [dimension for dimension in refusal.values if any(key in str(error.value) for key in names(row, dimension))]
    assert len(told) >= 2, f"{error.value} names {told} of {list(refusal.values)}"


@pytest.mark.usefixtures("nominal_costs")
@pytest.mark.parametrize("number", range(len(SLICE)))
def test_a_row_of_the_slice_finishes_and_is_verified(number: int, root: Path, tmp_path: Path) -> None:
    row = SLICE[number]
    verdict = run(row, root, tmp_path / "row")
    assert verdict.outcome == FINISHED, f"{verdict.told}\n{verdict.trace}\n{verdict.arguments}"


def test_a_row_that_raises_is_a_verdict_and_the_next_one_runs(root: Path, tmp_path: Path) -> None:
    rows_asked = [FIRST | {"training": "none", "lora": "no such value"}, FIRST | {"conditioning": "add_cross_attention"}]
    verdicts = [run(row, root, tmp_path / str(number)) for number, row in enumerate(rows_asked)]
    assert [verdict.outcome for verdict in verdicts] == ["failed", "refused"]
