"""The commands of `lab`: how they are found, how a run is named, and that every error ends with what is legal or what to type."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra.errors import HydraException
from prediction_tables import from_log_odds

from lab import cli, commands, evaluate, plan, serve, train, verify
from lab.answers.choice import ChoiceTable
from lab.config import DIALS, Experiment
from lab.errors import ConfigError
from lab.explaining import explain
from lab.freezing.needed import needed, require_given
from lab.freezing.schema import legal_keys
from lab.other_names import KEYS, OTHER_NAMES
from lab.paths import PACKAGE, shipped
from lab.report import __main__ as report
from lab.sweeping.launcher import register

register()


def ran(monkeypatch: pytest.MonkeyPatch, capsys, act, *words: str) -> tuple[int, str]:
    """Exit code of an entry point under this command line, and what it printed."""
    monkeypatch.setattr(sys, "argv", list(words))
    try:
        code = act()
    except SystemExit as end:
        code = end.code
    return code or 0, "".join(capsys.readouterr())


def test_the_script_lists_its_commands_and_refuses_others(monkeypatch, capsys) -> None:
    for words in ([], ["--help"]):
        code, printed = ran(monkeypatch, capsys, commands.main, "lab", *words)
        assert code == 0 and printed == commands.listing() + "\n"
    assert ran(monkeypatch, capsys, commands.main, "lab", "--version") == (0, "vlm-lab 0.1.0\n")
    code, printed = ran(monkeypatch, capsys, commands.main, "lab", "data", "chek", "--x")
    assert code == 2 and printed == "error: data chek: there is no such command. Did you mean 'data check'? `lab` lists them all.\n"


def test_a_command_tells_its_usage_as_it_was_typed(monkeypatch, capsys) -> None:
    assert "usage: lab verify RUN" in ran(monkeypatch, capsys, commands.main, "lab", "verify", "--help")[1]
    assert "usage: python -m lab.verify RUN" in ran(monkeypatch, capsys, verify.main, "verify.py", "--help")[1]


@pytest.mark.parametrize(
    ("words", "run", "overrides"),
    [
        (["1a2b", "data=nlvr"], "1a2b", ["data=nlvr"]),
        (["--run", "1a2b", "data=nlvr"], "1a2b", ["data=nlvr"]),
        (["data=nlvr", "--run", "1a2b"], "1a2b", ["data=nlvr"]),
        (["1a2b"], "1a2b", []),
    ],
)
def test_a_run_is_named_bare_or_by_its_flag(words: list[str], run: str, overrides: list[str]) -> None:
    parser = evaluate.parser()
    given = parser.parse_intermixed_args(words)
    cli.take_run(parser, given, given.overrides)
    assert (given.run, given.overrides) == (run, overrides)


@pytest.mark.parametrize("act", [evaluate.main, verify.main])
def test_without_a_run_it_says_what_to_type(monkeypatch, capsys, act) -> None:
    code, printed = ran(monkeypatch, capsys, act, "lab act")
    assert code == 2 and "no run is named. Type lab act RUN, where RUN is the name of a folder in runs/" in printed


def test_verify_takes_one_run(monkeypatch, capsys, tmp_path: Path) -> None:
    code, printed = ran(monkeypatch, capsys, verify.main, "lab verify", "1a", "2b")
    assert code == 2 and "2b: one run is verified at a time. Type lab verify 1a" in printed
    code, printed = ran(monkeypatch, capsys, verify.main, "lab verify", "1a", "--runs-dir", str(tmp_path))
    assert code == 2 and printed.startswith("error: --run 1a: there is no such run.")


@pytest.mark.parametrize(
    ("act", "words", "sentence"),
    [
        (plan.main, ["--price-per-hour", "nan"], "--price-per-hour: nan: give a number, 0 or more."),
        (verify.main, ["1a2b", "--examples", "0"], "--examples: 0: give a whole number, 1 or more."),
        (report.main, ["--gallery", "-1"], "--gallery: -1: give a whole number, 0 or more."),
        (report.main, ["--bootstrap", "10"], "--bootstrap: 10: give a whole number, 2000 or more."),
        (serve.main, ["1a2b", "--port", "70000"], "--port: 70000: give a whole number, 0 to 65535."),
        (serve.main, ["1a2b", "--queue", "1e3"], "--queue: 1e3: give a whole number, 1 or more."),
    ],
)
def test_a_number_of_a_flag_has_bounds(monkeypatch, capsys, act, words: list[str], sentence: str) -> None:
    code, printed = ran(monkeypatch, capsys, act, "lab act", *words)
    assert code == 2 and sentence in printed


def test_every_number_of_a_flag_has_bounds() -> None:
    """None is read by `int` or `float` alone, which take 0, -1 and nan."""
    sources = {path: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    assert [str(path) for path, text in sources.items() if re.search(r'"--[\w-]+", type=(int|float)\b', text)] == []



def test_flags_may_stand_among_overrides() -> None:
    assert train.overrides_last(["lora.r=8,16", "-m", "seed=1"]) == ["-m", "lora.r=8,16", "seed=1"]
    assert train.overrides_last(["seed=1", "-cn", "rank", "~x", "--cfg=job"]) == ["-cn", "rank", "~x", "--cfg=job", "seed=1"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["lora=foo"], "llm, llm_projector, mlp, none, projector, stage1, stage2, vision. `lab train --help lora` says what each is."),
        (["lora.r=foo"], "lora.r=foo: it must be a whole number. Legal: 0 to 65536."),
        (["hydra.launcher=joblib"], "it would choose nothing, since options are chosen with a slash. Type hydra/launcher=joblib."),
        (["--learning_rate", "1e-4"], "there is no such flag. Values are given as KEY=VALUE, without dashes. Did you mean 'optim.lr'?"),
        (["lora.r=8,16"], "lora.r=8,16: several values make a sweep. Add -m to the command, or type lora.r=[8,16] where one list is meant."),
        (["lora.r"], "lora.r: it is given no value. Type lora.r=VALUE; `lab train --help` lists groups and keys."),
        (["lora.rr=3"], "lora.rr: there is no such key. Did you mean 'lora.r'? `lab train --help` lists them all."),
        (["-cn", "rnak"], "-cn rnak: there is no such sweep. Did you mean 'rank'? Legal: conditioning,"),
    ],
)  # fmt: skip
def test_an_error_of_the_command_line_ends_with_what_helps(monkeypatch, capsys, words: list[str], sentence: str) -> None:
    code, printed = ran(monkeypatch, capsys, train.main, "lab train", *words)
    assert code == 2 and printed.startswith("error: ") and sentence in printed and printed.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("lora.target_modules=[q_proj,v_proj]", "a list is given, and one text is legal. Legal: attention, mlp, all-linear, or a regular expr"),
        ("lora.where=llm", "lora.where=llm: it must be a list, as in lora.where=[llm]. Legal: list of vision, projector or llm."),
        ("model.dtype=bf16", "model.dtype=bf16: there is no such word. Did you mean 'bfloat16'? Legal: float32, bfloat16 or float16."),
        ("optim=adamw", "optim is a section of keys, not a group with options. Did you mean 'optim.optimizer'? Its keys: optim.lr, "),
        ("data.columns=x", "data.columns=x: it has keys of its own, as in data.columns.NAME=VALUE."),
        ("~lora.r", "~lora.r: a key cannot be taken away. Give it a value. Legal: 0 to 65536."),
        ("foo/bar=x", "foo/bar: there is no such group."),
        ("trainer.precision=bf16", "trainer.precision: there is no such key. Did you mean 'model.dtype'?"),
        ("evaluation.max_samples=5", "evaluation.also, which names none. Add some, as in evaluation.also=[gqa]; of data=pairs give data.num_dev=N"),
        ("data=questions", "data.path: no value is given, and data=questions needs one: CSV, TSV, JSON, "),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_told_with_what_is_legal(given: str, sentence: str) -> None:
    with pytest.raises((ConfigError, HydraException)) as raised:
        cli.compose([given])
    told = str(raised.value) if isinstance(raised.value, ConfigError) else explain(raised.value, [given])
    assert told.startswith(given.partition("=")[0]) and sentence in told


def test_answers_of_three_options_are_told_with_intervals() -> None:
    """What is defined of two options alone, such as what takes P(True), is left out of the lines."""
    two = from_log_odds(np.linspace(-2, 2, 40), np.arange(40) % 3 > 0)
    table = ChoiceTable(**(vars(two) | {"log_p": np.column_stack([two.log_p, np.full(40, -9.0)])}))
    facts = {"run": "1a", "data": {"name": "ai2d"}, "split": "dev", "n": 40, "contract_broken": False, "metrics": {}}
    lines = evaluate.told(Path("x"), facts, table, 2000)
    assert "no intervals" not in lines and re.search(r"accuracy 0\.\d+ \[0\.\d+, 0\.\d+\]", lines) and "over 40 clusters" in lines


def test_a_full_disk_and_a_place_that_cannot_be_written_to_are_told(tmp_path: Path, capsys) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "runs/1a/run.json")

    (tmp_path / "file").touch()
    assert cli.run_cli(full) == cli.run_cli(lambda: (tmp_path / "file" / "out").mkdir()) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: runs/1a/run.json: no space is left. Free some, or name another place")
    assert second == f"error: {tmp_path}/file/out: it cannot be used (Not a directory). Name a place that you may write to."
    with pytest.raises(FileNotFoundError):
        cli.run_cli(lambda: (tmp_path / "nowhere").rmdir())


def test_names_of_other_libraries_lead_to_keys_that_there_are() -> None:
    """Each stands once, and none in place of a key of ours."""
    legal = legal_keys(Experiment)
    assert set(KEYS) <= set(legal) and sum(map(len, KEYS.values())) == len(OTHER_NAMES)
    assert OTHER_NAMES.keys() & {key.rpartition(".")[2] for key in legal} == {"alpha", "optim", "max_pixels"}, "of other sections"


def test_every_key_that_an_option_leaves_to_the_user_is_asked_for() -> None:
    """OmegaConf drops `???` where the schema has a default."""
    keys = [(path.parent.name, path.stem, key) for path in sorted(shipped("conf").glob("*/*.yaml")) for key in needed(path.parent.name, path.stem)]
    asked = [(dial, option, key) for dial, option, key in keys if dial in DIALS]
    assert len(asked) >= 6
    for dial, option, key in asked:
        x = Experiment()
        setattr(x, dial, replace(getattr(x, dial), name=option, **{**dict.fromkeys(needed(dial, option), "x"), key: None}))
        with pytest.raises(ConfigError, match=rf"^{dial}\.{key}: no value is given, and {dial}={option} needs one: \w"):
            require_given(x)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("hydra.sweeper.arms=[lora=none,lora.r=4 optim.lr=1e-4]", ["lora=none", "lora.r=4 optim.lr=1e-4"]),
        ("data.path=a, b.csv=c", "a, b.csv=c"),
    ],
)
def test_what_hydra_cannot_read_is_told_with_what_to_type(given: str, meant: object) -> None:
    """The line that the sentence says to type is read, and as what was meant."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    parser = OverridesParser.create()
    with pytest.raises(OverrideParseException) as raised:
        parser.parse_overrides([given])
    typed = explain(raised.value, [given]).rpartition(', as in "')[2].removesuffix('".')
    assert parser.parse_override(typed).value() == meant


def test_a_command_ends_without_a_look_for_cycles() -> None:
    """Of all that torch and Transformers have made it would take two seconds. What is registered first is called last."""
    code = "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 0)); import lab.cli"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"
