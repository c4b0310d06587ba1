"""`lab train --help`: every key with its comment and what is legal, of the experiment as asked, at any width."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab import bounds, keys, manual, train
from lab.config import DIALS, Experiment, as_dict, flat
from lab.errors import ConfigError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where these tests' index is."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, cache: Path):
    """The manual for a command in a terminal of so many columns."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))

    def show(*arguments: str, columns: int = 100) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        return manual.text(["--help", *arguments], train.values)

    return show


def test_what_only_hydra_understands_is_left_to_hydra() -> None:
    assert manual.requested(["--help", "lora.r=4"]) and manual.requested(["-cn", "week1", "-h", "-m"])
    assert not manual.requested(["lora.r=4"]) and not manual.requested(["--help", "-cd", "mine"]) and not manual.requested(["--hydra-help"])


def test_every_key_stands_there_with_its_value_and_a_comment_of_the_yaml(shown, composer) -> None:
    reference = keys.reference(ROOT / "conf", ROOT / "sweeps")
    wide = " ".join(shown(columns=120).split())
    values = flat(as_dict(composer()))
    for key, found in reference["keys"].items():
        assert any(found["comments"].values()), f"{key} has no comment in conf/"
        assert f" {key}=" in wide, key
        assert key not in values or f" {key}={manual.written(values[key])} " in wide, key
    for comment in ("rank: capacity and memory grow with it [0 to 65536]", "[float32, bfloat16 or float16]", "(cross_attention) 1: every block"):
        assert comment in wide
    for dial in DIALS:
        assert f" {dial} " + ", ".join(sorted(path.stem for path in (ROOT / "conf" / dial).glob("*.yaml"))) in wide


@pytest.mark.parametrize("columns", [80, 120])
def test_no_line_is_wider_than_the_terminal(shown, columns: int) -> None:
    assert max(map(len, shown(columns=columns).splitlines())) < columns


def test_overrides_and_a_chosen_sweep_show(shown) -> None:
    text = shown("-cn", "conditioning", "lora=mlp", "lora.lora_dropout=0.25", "seed=1,2", "conditioning=cross_attention")
    for value in ("lora.lora_dropout=0.25", "seed=0", "lora.trainable_parameters=179200", "lora.target_modules=mlp", "conditioning.every=2"):
        assert f"  {value} " in text
    assert "(cross_attention) " not in text and "--cfg job" in text


def test_one_group_or_key_alone(shown) -> None:
    group = shown("vision_tokens")
    assert all(f"vision_tokens={path.stem}" in group for path in (ROOT / "conf/vision_tokens").glob("*.yaml")) and "lora.r" not in group
    assert re.sub(r"\s+", " ", shown("lora.r")).strip() == "lora=llm lora.r=16 rank: capacity and memory grow with it [0 to 65536]"
    with pytest.raises(ConfigError, match=r"--help lora.rr: there is no such group or key. Did you mean 'lora.r'\?"):
        shown("lora.rr")


def test_what_is_told_to_be_legal_is_what_is_checked() -> None:
    """Each key's words are all of its table and pass its check; its range has the table's ends."""
    legal = dict(keys.legal_values())
    sections = [name for name in vars(Experiment()) if name not in ("seed", "plugins")]
    assert {key.partition(".")[0] for key in legal} == {*sections, "seed", "plugins"}
    for key, words in bounds.WORDS.items():
        assert key.endswith(".name") or legal[key].words == (*words.legal, *(["null"] if bounds.nullable(key) else [])), key
    for key, found in bounds.BOUNDS.items():
        assert f"{found.least:g}" in legal[key].told and ("null" in legal[key].told) == bounds.nullable(key), key


def test_a_comment_that_goes_on_in_the_next_line_is_one() -> None:
    text = "# A header\n# that goes on.\n# Cost: much.\na:   # of a\n  b: [1, 2]  # of b,\n             # still\n  c: '# none'\nd: {e: 1}\n"
    assert keys.comments_of(text) == {"a": "of a", "a.b": "of b, still", "a.c": "", "d": "", "d.e": ""}
    assert keys.header(text) == "A header that goes on."
