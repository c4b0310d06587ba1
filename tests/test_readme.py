"""README and docs are true: their commands name what exists and compose, CI runs those that need nothing fetched, snippets run."""

from __future__ import annotations

import copy
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from prediction_tables import from_log_odds

from lab import commands, curate, plugins
from lab.curation import config
from lab.statistics import metrics

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FILES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
PAGES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in FILES}
WRITTEN = "\n".join(PAGES.values())
BLOCKS = [line.split("#")[0].strip() for block in re.findall(r"```bash\n(.*?)```", WRITTEN.replace("\\\n", " "), re.S) for line in block.splitlines()]
COMMANDS = BLOCKS + re.findall(r"`(python -m lab\.[^`]*)`", WRITTEN)
PARTS = [part for line in COMMANDS for part in line.split(" && ") if part.startswith("python -m lab.train ")]
TRAIN = sorted({part for part in PARTS if "<" not in part and "..." not in part})
PYTHON = {f"{page} {i}": code for page, text in PAGES.items() for i, code in enumerate(re.findall(r"```python\n(.*?)```", text, re.S))}
SOURCE = re.sub(r'"\s*f?"', "", "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "lab").rglob("*.py"))))


def test_it_is_short() -> None:
    assert len(README.splitlines()) < 200


@pytest.mark.parametrize("door", sorted(set(re.findall(r"python -m lab\.([\w.]*\w)", WRITTEN))))
def test_every_door_exists(door) -> None:
    path = ROOT.joinpath("lab", *door.split("."))
    assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


@pytest.mark.parametrize("line", [line for line in re.findall(r"\blab [a-z][^`\n#)]*", "\n".join(COMMANDS)) if not line.startswith("lab.")])
def test_every_command_of_the_script_exists(line) -> None:
    assert commands.named(line.split()[1:]) is not None


@pytest.mark.parametrize("command", [c for c in TRAIN if "--help" not in c and "vision_from" not in c])  # those are read
def test_every_training_command_composes(command, composer, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()  # plugins=[mine]
    monkeypatch.setattr(plugins, "LOADED", {})
    words = [word for word in shlex.split(command)[3:] if word not in ("-m", "-cn")]
    config = "train"
    if " -cn " in command:
        config = words.pop(0)
        assert (ROOT / "sweeps" / f"{config}.yaml").is_file()
    words = [word for word in words if word not in ("sweep.clone=RUN", "model.start=RUN") and "interval(" not in word]
    for file in re.findall(r"\w+\.jsonl?\b", command):
        (tmp_path / file).write_text("[]", encoding="utf-8")  # data.sources=[file]
    composer(*[re.sub(r"^([^=]*=[^,\[]*),.*", r"\1", word) for word in words], config_name=config)


@pytest.mark.parametrize("command", sorted({part for line in COMMANDS for part in line.split(" && ") if part.startswith("python -m lab.curate ")}))
def test_every_curating_command_composes(command, monkeypatch) -> None:
    for key in ("OPENAI_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.setenv(key, "x")
    words = [word.strip("'") for word in command.split()[3:]]
    made = config.freeze(curate.compose([*words, *(f"{key}=http://m" for key in ("llm.base_url", "llm.model") if key not in command)]))
    assert made.to == next((word.removeprefix("to=") for word in words if word.startswith("to=")), made.to)


def test_every_option_in_the_table_exists() -> None:
    for dial, options in re.findall(r"^\| `(\w+)` \| ([\w, .]+) \|", README, re.M):
        for option in options.replace("...", "").split(","):
            if option.strip():
                assert (ROOT / "conf" / dial / f"{option.strip()}.yaml").is_file(), (dial, option)


def test_ci_runs_what_needs_nothing_fetched() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    for command in ("python -m lab.train lora.r=8,16,32 -m", "python -m lab.report", "make test", "python -m lab.plan", "python -m lab.train --help"):
        assert command in README and command in ci


@pytest.mark.parametrize("message", re.findall(r"^\| `([^`]+)` \|", PAGES["docs/troubleshooting.md"], re.M))
def test_messages_that_are_explained_are_given(message) -> None:
    assert message in SOURCE


def test_the_metric_of_the_docs(monkeypatch) -> None:
    """Its snippet runs as it stands, and what it registers has a value and an interval."""
    monkeypatch.setattr(metrics, "KINDS", copy.deepcopy(metrics.KINDS))
    exec(compile(PYTHON["docs/tutorials/extending.md 0"], "extending.md", "exec"), {})
    arm = from_log_odds(np.array([4.0, -4.0, 1.0, 4.0]), [True] * 4)
    assert metrics.KINDS["choice"].metrics["sure_and_wrong"].of(arm) == 0.25


def test_the_site_builds(tmp_path) -> None:
    """Every link leads somewhere (strict), and every key of the config stands on a page with its comment."""
    pytest.importorskip("mkdocs", reason="the site is built where the extra `docs` is installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", str(ROOT / "mkdocs.yml"), "-d", str(tmp_path)]
    quiet = {**os.environ, "DISABLE_MKDOCS_2_WARNING": "true", "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    built = subprocess.run(command, capture_output=True, text=True, check=False, env=quiet)
    assert built.returncode == 0, built.stderr
    assert "trainer.save_every" in (tmp_path / "settings" / "index.html").read_text(encoding="utf-8")
