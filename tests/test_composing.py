"""What tests compose is what the door composes, and so is what it says of what it cannot."""

from __future__ import annotations

from collections.abc import Iterator

import composing
import pytest
from omegaconf import DictConfig, OmegaConf

from lab import cli, unquoted
from lab.config import Experiment
from lab.data.conversation_file import record
from lab.data.sets import questions
from lab.errors import ConfigError
from lab.key_index import TRAIN
from lab.sweeping.launcher import register

GIVEN = [
    (),
    ("lora.r=8", "lora.lora_dropout=0.1", "lora.r=4"),
    ("lora=attention", "lora.target_modules='(q|k)_proj'", "conditioning=cross_attention", "conditioning.every=null", "conditioning.layers=[1,0]"),
    ("data=questions", "data.path='a b.csv'", "data.columns.question=Frage", "+data.columns.note=Anmerkung"),
    ("data=boxes", "data.path=a", "data.columns.split=part", "data.columns.id=nr", "data.aliases.fett=fat", "optim.optimizer_kwargs.momentum=0.9"),
    ("prompt.template='{statement} True or False?'", "optim.betas=[0.1,0.2]", "trainer.max_epochs=0.5", "trainer.max_steps=null"),
    ("model=qwen2_5_vl_7b", "data=nlvr2", "lora=all", "prompt=qa", "vision_tokens=resampler", "conditioning=cross_attention", "lora.r=2"),
    ("hydra.job.name=x", "evaluation.ask=[score,generate]", "model.dtype=bfloat16"),
]
UNQUOTED = {"8e4880": "inf", "1_2": "12", "1e5": "100000.0", "+7": "7", "true": "True", "NaN": "nan"}
"""Texts by what Hydra reads them as."""
SAME = ["12", "1.5", "abc", "12 apples", "0012", "null", "True", "'1e5'", '"true"', "1e5x"]
WRONG = [
    "lora.s=8", "lora.r=eight", "lora=nowhere", "lora.r='[", "+foo=1", "~lora.r", "trainer.max_steps=-1", "lora.r=1,2", "optim.schedule=step",
    "model.start=8e4880",
]  # fmt: skip


@pytest.mark.parametrize("overrides", GIVEN)
def test_an_experiment_is_the_doors(overrides: tuple[str, ...]) -> None:
    register()
    expected = cli.compose(overrides)
    assert composing.compose(*overrides) == expected
    assert composing.compose(*overrides) == expected, "what is kept has not been changed by what was set on it"


@pytest.mark.parametrize("override", WRONG)
def test_an_error_is_the_doors(override: str) -> None:
    register()
    with pytest.raises(Exception) as expected:
        cli.compose([override])
    with pytest.raises(type(expected.value)) as error:
        composing.compose(override)
    assert str(error.value) == str(expected.value)


@pytest.mark.parametrize("key", sorted(unquoted.texts(TRAIN)))
def test_a_text_that_is_read_as_another_is_refused_with_what_to_type(key: str) -> None:
    """Every key of texts, alone, in a list or mapping, and among the values of a sweep."""
    name = f"{key}.own" if unquoted.texts(TRAIN)[key] else key
    for typed, became in UNQUOTED.items():
        for value, quoted in ((typed, f"'{typed}'"), (f"a,{typed}", f"a,'{typed}'"), (f"[a, {typed}]", f"[a,'{typed}']")):
            with pytest.raises(ConfigError) as error:
                unquoted.refuse(["lora.r=8", f"{name}={value}"], TRAIN)
            assert str(error.value) == f'{name}={value}: {typed} without quotes is read as {became}. Quote the text: "{name}={quoted}".'
            unquoted.refuse([f"{name}={quoted}"], TRAIN)
    unquoted.refuse([f"{name}={value}" for value in SAME], TRAIN)


@pytest.mark.parametrize("value", SAME)
def test_what_is_not_refused_arrives_as_it_was_typed(value: str) -> None:
    register()
    arrived = cli.compose_config([f"data.question={value}"]).data.question
    assert arrived == (None if value == "null" else value.strip("'\""))


def test_a_sweep_is_the_doors() -> None:
    register()
    assert composing.compose("lora.r=2", config_name="rank") == cli.compose(["lora.r=2"], "rank")


def test_a_mapping_takes_a_key_as_it_is_typed() -> None:
    def mappings(node: DictConfig, prefix: str = "") -> Iterator[str]:
        for key in node:
            if isinstance(value := node._get_node(key), DictConfig) and not value._is_none():
                yield from [f"{prefix}{key}"] if OmegaConf.get_type(value) is dict else mappings(value, f"{prefix}{key}.")

    register()
    found = list(mappings(OmegaConf.structured(Experiment)))
    assert {"data.columns", "data.aliases", "optim.optimizer_kwargs", "optim.schedule_kwargs"} <= set(found)
    composed = cli.compose_config([f"{key}.own=1" for key in found])
    assert [str(OmegaConf.select(composed, f"{key}.own")) for key in found] == ["1"] * len(found)
    for columns in (questions.COLUMNS, record.COLUMNS):
        composed = cli.compose_config([f"data.columns.{column}=own" for column in columns])
        assert composed.data.columns == dict.fromkeys(columns, "own")
