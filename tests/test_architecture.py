"""The drawing of the house, executable: rooms, the direction of imports, one home per dial, light doors."""

from __future__ import annotations

import ast
import functools
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import composing
import pytest
import yaml

from lab.benchmark_specs import ALIASES
from lab.config import DIALS, RECIPE, as_dict, flat

ROOT = Path(__file__).parents[1]
FLOW = (
    "errors other_names host",
    "records benchmark_specs config bounds paths placing plugins services freezing keys key_index manual",
    "answers",
    "statistics",
    "store",
    "cli explaining cloning starting unquoted",
    "llm",
    "data",
    "curation judge",
    "prompt",
    "model",
    "vision_tokens conditioning",
    "lora",
    "artifacts costs",
    "training",
    "evaluation learned_metrics",
    "report",
    "tracking",
    "run",
    "sweeping",
    "train curate finished evaluate score predict serving serve verify export plan bench sync commands completion doctor __main__",
    "experiment",
)
"""Rooms of lab/ from left to right; a room imports from its own place and from the left."""
COMMANDS = {"data/check.py": "doctor"}
"""Commands that lie in a room and stand in the flow with the others: a sample is shown as a model will see it."""
PLACE = {room: i for i, rooms in enumerate(FLOW) for room in rooms.split()}
FORBIDDEN = {"utils", "util", "helpers", "helper", "common", "misc", "base", "core", "manager", "factory"}


def modules(top: str = "lab") -> list[Path]:
    return sorted((ROOT / top).rglob("*.py"))


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    """Of a module, each once however many tests look at them."""
    return list(ast.walk(ast.parse(path.read_text())))


def room_of(path: Path) -> str:
    place = path.relative_to(ROOT / "lab")
    return COMMANDS.get(place.as_posix(), place.parts[0].removesuffix(".py"))


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in nodes(path):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" if node.module == "lab" else node.module for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("lab.") }
    return rooms - {"__version__"}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_flow(path: Path) -> None:
    here = room_of(path)
    if here == "__init__":
        return
    assert here in PLACE, f"lab/{here} has no place in the flow"
    for other in imported_rooms(path):
        assert PLACE[other] <= PLACE[here], f"{path}: {here} imports {other}, which stands to its right"


def test_the_drawing_for_contributors_is_this_one() -> None:
    assert " -> ".join(FLOW) in " ".join((ROOT / "CONTRIBUTING.md").read_text().split())


def test_one_dial_is_one_folder_one_dataclass_one_module() -> None:
    from lab import config

    folders = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}
    assert folders == {*DIALS, RECIPE, "curation"}, "and what lab.curate composes"
    for dial in DIALS:
        assert (ROOT / "lab" / f"{dial}.py").is_file() or (ROOT / "lab" / dial / "__init__.py").is_file(), dial
        dataclass = getattr(config, "".join(word.capitalize() for word in dial.split("_")) + "Dial")
        assert dataclass.__module__ == f"lab.config.{dial}", dial


@pytest.mark.parametrize("path", sorted((ROOT / "conf").rglob("*.yaml")) + sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda p: p.name)
def test_yaml_holds_values_and_says_why(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# "), "a header comment says what the file is"
    assert "_target_" not in text
    if path.parent.name in DIALS:
        values = yaml.safe_load(text)
        assert values["name"] == path.stem if path.stem not in ALIASES else values["defaults"][0] == ALIASES[path.stem]
    if path.parent.name == "sweeps":
        for word in ("# Question:", "# Changes our mind if:", "# Cost:"):
            assert word in text, word


OPTIONS = [path for path in sorted((ROOT / "conf").glob("*/*.yaml")) if path.parent.name in (*DIALS, RECIPE)]


@pytest.mark.parametrize("path", OPTIONS, ids=lambda p: f"{p.parent.name}={p.stem}")
def test_every_option_composes(path: Path, composer) -> None:
    needs = {"lora=none": "trainer.max_steps=0", "data=questions": "data.path=q.csv", "data=boxes": "data.path=q.json"}
    needs |= {"data=conversations": f"data.sources=[{__file__}]", "data=mixture": "data.parts=[pairs]"}
    needs["model=assembled"] = "model.vision_from=v model.llm_from=l model.family=llava"
    option = f"{path.parent.name}={path.stem}"
    dial = path.parent.name
    if dial == RECIPE:
        values, wanted = flat(as_dict(composer(option))), flat(yaml.safe_load(path.read_text()))
        assert {key: values[key] for key in wanted if key != "defaults"} == {key: value for key, value in wanted.items() if key != "defaults"}
        return
    assert getattr(composer(option, *needs.get(option, "").split()), dial).name == ALIASES.get(path.stem, path.stem)
    alone, untouched = composing.of_options((option,), "train"), composing.of_options((), "train")
    assert not composing.apart(option) or all(alone[key] == untouched[key] for key in alone if key != dial), "it fills its own section only"


def test_a_data_set_is_a_file_and_an_option() -> None:
    from lab.data import NAMES

    assert {path.stem for path in (ROOT / "conf" / "data").glob("*.yaml")} == {*NAMES, *ALIASES}


def test_the_package_imports_no_tools() -> None:
    assert not [path for path in modules() if "from tools" in path.read_text() or "import tools" in path.read_text()]


def test_files_and_functions_are_short() -> None:
    """Of lab/ and tools/: at most 300 lines in a file, at most 55 in a function, its docstring among them."""
    paths = [path for top in ("lab", "tools") for path in modules(top)]
    functions = {
        f"{path.relative_to(ROOT)} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in paths for node in nodes(path) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }  # fmt: skip
    assert not [path for path in paths if path.read_text().count("\n") > 300]
    assert not {name: lines for name, lines in functions.items() if lines > 55}


def test_no_drawers() -> None:
    assert not [path for path in modules() if path.stem in FORBIDDEN or path.parent.name in FORBIDDEN]


def test_only_tracking_imports_trackers() -> None:
    importing = [path for path in modules() if re.search(r"^ *(import|from) (mlflow|wandb)\b", path.read_text(), re.MULTILINE)]
    assert {room_of(path) for path in importing} == {"tracking"}


def test_what_makes_data_or_reads_predictions_knows_nothing_of_models() -> None:
    guilty = [
        path for path in modules() if room_of(path) in ("statistics", "answers", "report", "store", "curation")
        for node in nodes(path) if isinstance(node, ast.Import | ast.ImportFrom)
        and ast.unparse(node).split()[1].split(".")[0] in ("torch", "transformers")
    ]  # fmt: skip
    assert not guilty


HEAVY = ("torch", "transformers", "lightning", "peft", "mlflow", "wandb", "datasets", "matplotlib")


@pytest.mark.parametrize("statement", ["import lab.config", "import lab.train", "import lab.records, lab.store.runs, lab.prompt, lab.data"])
def test_light_imports(statement: str) -> None:
    code = f"{statement}; import sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "most_s", "absent"),
    [(["--help"], 0.8, ("hydra", "omegaconf", "yaml", *HEAVY)), (["--help", "lora=mlp"], 1.5, HEAVY), (["--cfg", "job"], 1.5, HEAVY)],
    ids=["plain", "of an override", "of Hydra"],
)
def test_the_manual_answers_at_once(arguments: list[str], most_s: float, absent: tuple[str, ...]) -> None:
    """Within so many seconds of CPU, without a library that it does not need; the plain manual is read off its index.

    Beside another busy worker the same work costs up to twice the CPU seconds, so `make test` runs this first, alone.
    """
    code = (
        "import resource, runpy, sys\n"
        f"sys.argv = ['lab.train', *{arguments!r}]\n"
        "try:\n    runpy.run_module('lab.train', run_name='__main__')\nexcept SystemExit as end:\n    code = end.code\n"
        f"heavy = [name for name in {absent!r} if name in sys.modules]\n"
        "usage = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print('\\nCPU', usage.ru_utime + usage.ru_stime, heavy)\n"
    )
    limit, spent, heavy = most_s * (2 if "PYTEST_XDIST_WORKER" in os.environ else 1), [], ""
    while len(spent) < 4 and (heavy != "[]" or min(spent) > limit):  # the first may have made the index
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
        _, seconds, heavy = out.strip().splitlines()[-1].split(maxsplit=2)
        assert "lora" in out
        spent.append(float(seconds))
    assert heavy == "[]" and min(spent) <= limit, spent


WORDS_AT_HOME = ("lab/config/prompt.py", "lab/records/answers.py", "lab/data/manifest.py")
"""Where the two words of a True/False question stand: as defaults of the prompt, as the options of a truth, as data files write them."""


def test_only_the_kind_choice_knows_true_and_false() -> None:
    """No other module names the two words as answers, or carries their tokens in a signature."""
    for path in modules():
        name = str(path.relative_to(ROOT))
        if name in WORDS_AT_HOME:
            continue
        found = nodes(path)
        texts = {node.value for node in found if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        names = {node.arg if isinstance(node, ast.arg) else node.attr for node in found if isinstance(node, ast.arg | ast.Attribute)}
        assert not texts & {"True", "False"}, name
        assert not names & {"answer_true", "answer_false", "true_ids", "false_ids", "answer_tokens"}, name


def test_what_prepares_arms_imports_neither_lightning_nor_peft() -> None:
    """They take seconds, and are imported beside the features' computation; a command that trains nothing does without Lightning."""
    root = Path(__file__).parents[1]
    waiting, seen = ["lab.run"], set()
    while waiting:
        name = waiting.pop()
        path = root / Path(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if name in seen or not path.is_file():
            continue
        seen.add(name)
        tree = [each for node in ast.parse(path.read_text(encoding="utf-8")).body for each in (node.body if isinstance(node, ast.With) else [node])]
        checks = [node.body for node in tree if isinstance(node, ast.FunctionDef) and node.name in ("check", "load_shared", "require_adapter")]
        for node in itertools.chain(tree, *checks):  # what these import whatever is asked
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                named = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            heavy = {each.split(".")[0] for each in named} & {"lightning", "peft", "torchmetrics", "mlflow", "matplotlib"}
            assert not heavy, f"{name} imports {heavy} before it is needed"
            waiting += [each for each in named if each.startswith("lab")]
    assert {"lab.training.features", "lab.evaluation.scoring", "lab.costs.counting"} <= seen
