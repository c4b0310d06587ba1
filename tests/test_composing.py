"""What tests compose is what the door composes, and so is what it says of what it cannot."""

from __future__ import annotations

import composing
import pytest

from lab import cli
from lab.sweeping.launcher import register

GIVEN = [
    (),
    ("lora.r=8", "lora.lora_dropout=0.1", "lora.r=4"),
    ("lora=attention", "lora.target_modules='(q|k)_proj'", "conditioning=cross_attention", "conditioning.every=null", "conditioning.layers=[1,0]"),
    ("data=questions", "data.path='a b.csv'", "data.columns.question=Frage", "+data.columns.note=Anmerkung"),
    ("prompt.template='{statement} True or False?'", "optim.betas=[0.1,0.2]", "trainer.max_epochs=0.5", "trainer.max_steps=null"),
    ("model=qwen2_5_vl_7b", "data=nlvr2", "lora=all", "prompt=qa", "vision_tokens=resampler", "conditioning=cross_attention", "lora.r=2"),
    ("hydra.job.name=x", "evaluation.ask=[score,generate]", "model.dtype=bfloat16"),
]
WRONG = ["lora.s=8", "lora.r=eight", "lora=nowhere", "lora.r='[", "+foo=1", "~lora.r", "trainer.max_steps=-1", "lora.r=1,2", "optim.schedule=step"]


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


def test_a_sweep_is_the_doors() -> None:
    register()
    assert composing.compose("lora.r=2", config_name="rank") == cli.compose(["lora.r=2"], "rank")
