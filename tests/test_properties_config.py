"""Whatever number is given for whatever numeric key: a sentence that begins with the key, or an experiment that holds it."""

from __future__ import annotations

import copy
import functools
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lab.bounds import BOUNDS, WORDS, default_of, value_of
from lab.config import as_dict
from lab.errors import ConfigError
from lab.freezing import from_dict
from lab.freezing.schema import literal
from lab.paths import PATHS

NUMBERS = (
    st.integers()
    | st.integers(min_value=-(10**400), max_value=10**400)
    | st.floats()
    | st.sampled_from([*{bound for one in BOUNDS.values() for bound in (one.least, one.most)}])
    | st.fractions().map(str)
    | st.text(alphabet="0123456789eE.+-_ xjnaif", max_size=12)
)
TEXTS = st.text(max_size=20) | st.text(alphabet="~/. \0${}:\u0661\ufeff", max_size=8)


@pytest.fixture(scope="module")
def shipped(composer) -> dict[str, Any]:
    return as_dict(composer())


def held(shipped: dict[str, Any], key: str, value: Any) -> None:
    """The property of one key."""
    values = copy.deepcopy(shipped)
    *sections, name = key.split(".")
    functools.reduce(lambda inside, section: inside[section], sections, values)[name] = value
    try:
        x = from_dict(values)
    except ConfigError as error:
        assert key in str(error) and len(str(error)) < 1500
        return
    taken = value_of(x, key)
    if key in BOUNDS and taken is not None:
        for one in taken if isinstance(taken, list) else [taken]:
            assert math.isfinite(one) and BOUNDS[key].hold(one)
        if not isinstance(value, str | list):
            assert taken == value, "nothing was rounded or wrapped"
            assert json.loads(json.dumps(as_dict(x))) == as_dict(x), "what is stored of it is the same"


@given(key=st.sampled_from(sorted(BOUNDS)), number=NUMBERS, length=st.integers(0, 3))
def test_a_number(shipped, key: str, number: Any, length: int) -> None:
    held(shipped, key, [number] * length if isinstance(default_of(key), list) or key == "conditioning.layers" else number)


@given(text=st.text(max_size=20) | st.text(alphabet="\\${}ab:.'", max_size=8))
def test_a_stored_text_is_read_as_it_was(text: str) -> None:
    """Also one that OmegaConf would take for a reference to another key, as `from_dict` gives it what is stored."""
    assert OmegaConf.to_container(OmegaConf.create(literal({"a": [text]})), resolve=True) == {"a": [text]}


@given(key=st.sampled_from(sorted({*WORDS, *PATHS})), text=TEXTS)
def test_a_text(shipped, key: str, text: str) -> None:
    held(shipped, key, [text] if isinstance(default_of(key), list) else text)
