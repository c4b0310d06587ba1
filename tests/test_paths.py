"""Every path key of the schema, and every door's path argument, means the same folder to whoever reads it."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import pytest
from test_nlvr2 import hang, statement, train_rows, write

from lab import evaluate, model, paths
from lab.bounds import value_of
from lab.config import DataDial, ModelDial, OnBad, Tracking, identity
from lab.data import load, require_split
from lab.errors import ConfigError, DataError
from lab.paths import PATHS, When
from lab.prompt import parse_template
from lab.report.__main__ import parser
from lab.store import sync_state

NAMES = ("plain", "with space", "\u00fcml\u00e4ut \u65e5\u672c", "trailing/")


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def quoted(path: str) -> str:
    return f"'{path}'"


@pytest.mark.parametrize("key", [key for key in PATHS if key != "model.start"])  # a run that must be there: tests/test_starting.py
def test_home_is_expanded_once_for_every_reader(key: str, home, composer, monkeypatch) -> None:
    expanded = [f"{home}/{name}" for name in NAMES]
    beside, others = [], ["relative/x", "./~here", str(home / "absolute")]
    if key == "evaluation.also_root":  # a folder of benchmarks, read for those that are asked
        home.mkdir(exist_ok=True)
        monkeypatch.chdir(home)
        for folder in (*expanded, *others):
            Path(folder, "gqa").mkdir(parents=True)
        beside = ["evaluation.also=[gqa]"]
    for name, path in zip(NAMES, expanded, strict=True):
        x = composer(f"{key}={quoted(f'~/{name}')}", *beside)
        assert value_of(x, key) == (path if PATHS[key] is When.frozen else f"~/{name}")
    for kept in others:
        assert value_of(composer(f"{key}={quoted(kept)}", *beside), key) == kept


@pytest.mark.parametrize("key", PATHS)
@pytest.mark.parametrize("wrong", ["''", "' '", "'~nobody-by-this-name/x'", "'a\\x00b'"])
def test_what_is_no_path_is_refused(key: str, wrong: str, home, composer) -> None:
    asked = wrong.replace("\\x00", "\0")
    with pytest.raises(ConfigError, match=f"^{key}="):
        composer(f"{key}={asked}")


def test_readers_find_what_was_meant(home, tiny_folder, composer, tmp_path) -> None:
    for name in NAMES:
        folder = home / name
        folder.mkdir(parents=True)
        (folder / "template.txt").write_text("Is it so? {statement}")
        x = composer(f"prompt.template_file={quoted(f'~/{name}/template.txt')}")
        assert parse_template(x.prompt)[0] == "Is it so? {statement}"
        assert model.locate(composer(f"model.path={quoted(f'~/{name}')}").model.path) == str(folder)
        rows = [statement("dev-1-0-0"), statement("dev-1-1-0", "False")]
        write(folder, "dev", rows)
        hang(folder / "images" / "dev", rows)
        dial = DataDial(name="nlvr2", root=f"~/{name}")
        assert len(load(dial, tmp_path / "cache").dev) == 2
    assert model.locate("tiny_base") == model.locate("tiny_base/")


@pytest.mark.parametrize(
    ("uri", "meant"),
    [
        ("sqlite:///~/m.db", "sqlite:///{home}/m.db"), ("sqlite+pysqlite:///~/a b.db", "sqlite+pysqlite:///{home}/a b.db"),
        ("file:~/mlruns", "file:{home}/mlruns"), ("file://~/mlruns", "file://{home}/mlruns"), ("~/mlruns", "{home}/mlruns"),
        ("http://host/~user/x", "http://host/~user/x"), ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
    ],
)  # fmt: skip
def test_addresses(uri: str, meant: str, home, composer, monkeypatch) -> None:
    """From the key, from --uri and from the environment."""
    meant = meant.format(home=home)
    assert composer(f"tracking.uri={quoted(uri)}").tracking.uri == meant
    assert sync_state.store_uri(Tracking(uri=uri)) == meant
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert sync_state.store_uri(Tracking()) == meant


def test_doors_expand_their_own_arguments(home) -> None:
    assert evaluate.parser().parse_args(["--run", "x", "--runs-dir", "~/runs"]).runs_dir == home / "runs"
    given = parser().parse_args(["--runs-dir", "~/runs", "--out", "~/a b"])
    assert (given.runs_dir, given.out) == (home / "runs", home / "a b")
    with pytest.raises(argparse.ArgumentTypeError, match="is the home of no user here"):
        paths.argument("~nobody-by-this-name/x")


def test_identities_of_runs_that_are_there_stay(home, composer) -> None:
    """The spelling of `data.root` is part of an identity, where runs are kept is not."""
    x = composer("data=nlvr", "data.root='~/nlvr'")
    assert identity(x) != identity(composer("data=nlvr", f"data.root={home}/nlvr"))
    assert identity(x) == identity(composer("data=nlvr", "data.root='~/nlvr'", "tracking.runs_dir='~/r'", "tracking.uri='~/m'"))
    assert identity(composer()) == "7180555828"


@pytest.mark.parametrize("how", ["records", "images"])
def test_an_emptied_split_says_that_it_was_emptied(how: str, tmp_path: Path) -> None:
    """`data.on_bad=skip` that leaves nothing is not a file that is missing."""
    rows, train = [statement("dev-1-0-0"), statement("dev-1-1-0", "False")], train_rows(None, sets=3)
    write(tmp_path, "dev", rows)
    hang(tmp_path / "images" / "dev", rows)
    write(tmp_path, "train", [{**row, "label": "perhaps"} for row in train] if how == "records" else train)
    hang(tmp_path / "images" / "train", train)
    if how == "images":
        for path in (tmp_path / "images" / "train").glob("train-*"):
            path.unlink()
            path.write_bytes(b"no image")
    splits = load(DataDial(name="nlvr2", root=str(tmp_path), on_bad=OnBad.skip), tmp_path / "cache")
    for part in ("train", "minival"):
        with pytest.raises(DataError, match=rf"the {part} split is empty: all \d+ \w+ of {part} were skipped .*the first: .*train"):
            require_split(splits, part)


def test_an_adapter_of_another_rank_than_its_config_says(tiny_folder, composer, tmp_path) -> None:
    """And one whose config or tensors are not there, empty or of another kind: a `ModelError` with the file, the base untouched."""
    import torch
    from safetensors.torch import load_file, save_file

    from lab import lora
    from lab.artifacts import adapter
    from lab.errors import ModelError

    vlm = model.load(ModelDial(name="tiny", family="qwen2_vl", path=str(tiny_folder)))
    lora.attach(vlm, dataclasses.replace(composer().lora, r=2), 0)
    for name, parameter in vlm.model.named_parameters():
        if "lora_" in name:
            torch.nn.init.ones_(parameter)
    adapter.save(vlm, tmp_path / "adapter")
    lora.detach(vlm)
    config, weights = tmp_path / "adapter" / "adapter_config.json", tmp_path / "adapter" / adapter.PEFT_WEIGHTS
    told, tensors = json.loads(config.read_text()), load_file(weights)
    for values in ({**told, "r": 4}, {**told, "r": "two"}, {**told, "peft_type": "NONE"}, [], {}, {**told, "target_modules": ".*visual.*qkv"}):
        config.write_text(json.dumps(values))
        with pytest.raises(ModelError, match="adapter"):
            adapter.load(model.load(ModelDial(name="tiny", family="qwen2_vl", path=str(tiny_folder))), tmp_path / "adapter")
    config.write_text(json.dumps(told))
    for harmed in ({name: value[:1] for name, value in tensors.items()}, {name: value[None] for name, value in tensors.items()}):
        save_file({name: value.contiguous() for name, value in harmed.items()}, weights)
        with pytest.raises(ModelError, match="other shapes"):
            adapter.load(model.load(ModelDial(name="tiny", family="qwen2_vl", path=str(tiny_folder))), tmp_path / "adapter")
