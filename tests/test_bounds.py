"""Every number and every text of the schema has its bounds, its words or its reason to have none; each is held to them."""

from __future__ import annotations

import copy
import functools
import math
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lab import bounds, paths
from lab.bounds import BOUNDS, WORDS
from lab.config import Experiment, TrainerSection, as_dict
from lab.errors import ConfigError
from lab.freezing import from_dict
from lab.freezing.schema import legal_keys
from lab.training import devices

TEXTS = {
    **dict.fromkeys(("model.name", "data.name", "lora.name", "prompt.name"), "an option, a file of conf/"),
    **dict.fromkeys(("prompt.system", "prompt.template", "prompt.separator", "prompt.answer_true", "prompt.answer_false"), "words"),
    "model.labels": "answers in one's own words",
    "model.family": "a module of lab/model, looked for before weights are read",
    "model.revision": "of a hub",
    "data.columns": "names in a user's file",
    "data.parts": "options of data, composed before anything loads",
    "data.question": "words",
    "data.aliases": "names of classes in a user's file",
    **dict.fromkeys((f"{one}.{key}" for one in ("evaluation.judge", "endpoint") for key in ("base_url", "model", "api_key_env")), "lab.services"),
    "data.subset": "of a benchmark, as its files have it",
    "data.split": "of a benchmark or of NLVR2, as its files have it",
    "data.source": "lab.data.sets.nlvr2 says why some are refused, before a model is loaded",
    "lora.target_modules": "a regular expression",
    "optim.schedule_kwargs": "arguments of a schedule of Transformers, held against its signature",
    "optim.optimizer_kwargs": "arguments of an optimizer of torch, held against its signature",
    "evaluation.also": "options of data, composed before anything loads",
    "tracking.experiment": "MLflow's name",
    "sweep.clone": "a run, looked up in tracking.runs_dir",
    "plugins": "folders or entry points, imported before anything is composed",
}
"""Keys of the schema whose text is free, and why."""


def hints() -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Every key of the schema with the types its values, or the items of its lists, may have."""
    for key in legal_keys(Experiment):
        owner: Any = Experiment
        for name in key.split("."):
            owner = typing.get_type_hints(owner)[name]
        kinds = typing.get_args(owner) if typing.get_origin(owner) is not list else (owner,)
        flat = [inner for kind in kinds or (owner,) for inner in (typing.get_args(kind) or (kind,))]
        yield key, tuple(flat)


def test_every_key_has_its_table() -> None:
    """A new number without bounds, or a new text that is in no table, fails here."""
    numbers = {key for key, kinds in hints() if {int, float} & set(kinds)}
    texts = {key for key, kinds in hints() if str in kinds}
    assert numbers == set(BOUNDS)
    assert texts == set(WORDS) | set(paths.PATHS) | set(TEXTS)
    assert len(texts) == len(WORDS) + len(paths.PATHS) + len(TEXTS)


@pytest.fixture(scope="module")
def given(composer) -> Callable[[str, Any], Experiment]:
    """The shipped experiment with one key set, checked."""
    shipped = as_dict(composer())

    def make(key: str, value: Any) -> Experiment:
        values = copy.deepcopy(shipped)
        *sections, name = key.split(".")
        functools.reduce(lambda inside, section: inside[section], sections, values)[name] = value
        return from_dict(values)

    return make


def next_to(value: float, step: int) -> float:
    return value + step if isinstance(value, int) else math.nextafter(value, step * math.inf)


def as_given(key: str, value: float) -> Any:
    """A value as the key takes it: alone, or in a list of legal ones."""
    usual = bounds.default_of(key)
    listed = isinstance(usual, list) or key == "conditioning.layers"
    return [value] * (BOUNDS[key].length or 1) if listed else type(usual or value)(value)


def refusal(key: str, asked: Any) -> str:
    """What is said of a number of a key; empty if it is legal."""
    try:
        bounds.check_number(key, asked, BOUNDS[key])
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("key", BOUNDS)
def test_numbers_at_their_bounds_are_legal(key: str) -> None:
    bound = BOUNDS[key]
    legal = [bound.least, next_to(bound.most, -1), *([] if bound.open_above else [bound.most])]
    assert {value: refusal(key, as_given(key, value)) for value in legal} == dict.fromkeys(legal, "")


@pytest.mark.parametrize("key", BOUNDS)
def test_numbers_beyond_their_bounds_are_refused(key: str, given) -> None:
    """With the key, what was given and what is legal; also what is no number, and (of a config not typed yet) what no float holds."""
    bound = BOUNDS[key]
    outside = [next_to(bound.least, -1), bound.most if bound.open_above else next_to(bound.most, 1)]
    listed = isinstance(as_given(key, bound.least), list)
    for value in (*outside, -1e300, math.nan, math.inf, -math.inf, -(10**400), 10**400):
        asked = [value] * (bound.length or 1) if listed else value
        with pytest.raises(ConfigError) as refused:
            given(key, asked) if value == 10**400 else bounds.check_number(key, asked, bound)
        assert str(refused.value).startswith(f"{key}="), value
        assert bound.rule in str(refused.value) and len(str(refused.value)) < 400


@pytest.mark.parametrize("key", [key for key, kinds in hints() if key in BOUNDS and type(None) not in kinds])
def test_a_number_that_is_needed_is_not_left_out(key: str, given) -> None:
    with pytest.raises(ConfigError, match=key.rpartition(".")[2]):
        given(key, None)


@pytest.mark.parametrize("value", [[], [0.9], [0.9, 0.99, 0.999]])
def test_betas_are_two(value: list[float], given) -> None:
    with pytest.raises(ConfigError, match="^optim.betas=.*2 numbers are needed, as in"):
        given("optim.betas", value)


def test_the_last_replicate_has_a_legal_seed(composer) -> None:
    composer(f"seed={bounds.SEED - 2}", "sweep.replicates=3")
    with pytest.raises(ConfigError, match="sweep.replicates=3.*Lower seed"):
        composer(f"seed={bounds.SEED - 1}", "sweep.replicates=3")


@pytest.mark.parametrize("key", WORDS)
def test_words(key: str, given) -> None:
    """Every legal word passes; another is refused, by the config as by the table, with the key, the word and all legal ones."""
    words, listed = WORDS[key], isinstance(bounds.default_of(key), list)
    for word in words.legal:
        bounds.check_word(key, [word] if listed else word, words)
    if listed:
        with pytest.raises(ConfigError, match=f"{words.legal[0]} is named twice"):
            given(key, [words.legal[0]] * 2)
    for wrong in ("", "nonsense", "NONE", f"{(words.legal or ('1:00:00',))[0]} ", "\u0661:00:00", *words.refused):
        with pytest.raises(ConfigError) as refused:
            given(key, [wrong] if listed else wrong) if wrong == "nonsense" else bounds.check_word(key, [wrong] if listed else wrong, words)
        assert str(refused.value).startswith(f"{key}={'[' if listed else ''}{wrong}")
        assert all(word in str(refused.value) for word in (*words.legal, words.also_told))


def test_words_are_those_that_the_modules_know() -> None:
    from lab.data.controls import CONTROLS
    from lab.data.scenes import PALETTES
    from lab.lora.initialisations import INITS
    from lab.statistics.marking import PROFILES

    assert set(WORDS["data.difficulty"].legal) == set(PALETTES)
    assert set(WORDS["evaluation.controls"].legal) == set(CONTROLS)
    assert WORDS["data.profile"].legal == PROFILES
    assert set(WORDS["lora.init_lora_weights"].legal) == set(INITS)


@pytest.mark.parametrize(
    ("accelerator", "asked", "gpus", "message"),
    [
        ("gpu", 1, 0, r"^trainer.accelerator=gpu: .*Legal here: auto, cpu\.$"),
        ("cuda", 1, 0, r"^trainer.accelerator=cuda: .*Legal here: auto, cpu\.$"),
        ("mps", 1, 2, r"^trainer.accelerator=mps: .*Legal here: auto, cpu, gpu, cuda\.$"),
        ("gpu", 3, 2, r"^trainer.devices=3: this machine has 2 GPU\(s\)\. Legal: 1 to 2"),
        ("auto", 3, 2, r"^trainer.devices=3: this machine has 2 GPU\(s\)\. Legal: 1 to 2"),
        ("auto", 3, 0, None),
        ("cpu", 3, 2, None),
        ("gpu", 2, 2, None),
    ],
)
def test_devices_that_are_not_there(accelerator: str, asked: int, gpus: int, message: str | None, monkeypatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    section = TrainerSection(accelerator=accelerator, devices=asked)
    if message is None:
        devices.require(section)
    else:
        with pytest.raises(ConfigError, match=message):
            devices.require(section)


def test_a_gpu_that_is_not_there_is_told_before_anything_loads(small, monkeypatch) -> None:
    import torch

    from lab import data
    from lab import run as running

    if torch.cuda.is_available():
        pytest.skip("there is one")
    monkeypatch.setattr(data, "load", lambda *_: pytest.fail("data were loaded"))
    with pytest.raises(ConfigError, match="^trainer.accelerator=gpu"):
        running.prepare(small("trainer.accelerator=gpu"))
