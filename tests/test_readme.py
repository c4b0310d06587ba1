"""The README is true: its commands name doors, options and sweeps that exist, and CI runs those that need nothing fetched."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab import commands

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line.split("#")[0].strip() for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines()]
TRAIN = [part for line in COMMANDS for part in line.split(" && ") if part.startswith("python -m lab.train")]


def test_it_is_short() -> None:
    assert len(README.splitlines()) < 200


@pytest.mark.parametrize("door", sorted(set(re.findall(r"python -m lab\.([\w.]*\w)", README))))
def test_every_door_exists(door) -> None:
    path = ROOT.joinpath("lab", *door.split("."))
    assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


@pytest.mark.parametrize("line", [line for line in re.findall(r"\blab [a-z][^`\n#)]*", "\n".join(COMMANDS)) if not line.startswith("lab.")])
def test_every_command_of_the_script_exists(line) -> None:
    assert commands.named(line.split()[1:]) is not None


@pytest.mark.parametrize("command", [c for c in TRAIN if "--help" not in c])
def test_every_training_command_composes(command, composer) -> None:
    words = [word for word in command.split()[3:] if word not in ("-m", "-cn")]
    config = "train"
    if " -cn " in command:
        config = words.pop(0)
        assert (ROOT / "sweeps" / f"{config}.yaml").is_file()
    composer(*[re.sub(r"=([^,\[]*),.*", r"=\1", word) for word in words])


def test_every_option_in_the_table_exists() -> None:
    for dial, options in re.findall(r"^\| `(\w+)` \| ([\w, .]+) \|", README, re.M):
        for option in options.replace("...", "").split(","):
            if option.strip():
                assert (ROOT / "conf" / dial / f"{option.strip()}.yaml").is_file(), (dial, option)


def test_ci_runs_what_needs_nothing_fetched() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    for command in ("python -m lab.train lora.r=8,16,32 -m", "python -m lab.report", "make test", "python -m lab.plan", "python -m lab.train --help"):
        assert command in README and command in ci
