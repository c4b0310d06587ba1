"""What each key, option and sweep is, for `--help` and tab completion: read from `conf/`, the schema and `lab.bounds`. Light.

Nothing is written twice: a key's comment is its YAML's own, what is legal for it is what `lab.freezing` checks.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from lab import bounds, paths
from lab.config import DIALS, RECIPE, Experiment

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
TRAIN = "train"
"""The file of what is held still, as an option among those of the dials."""
HYDRA = {
    "hydra/sweeper": {
        "arms": "every combination of the values given",
        "optuna": "samples from ranges, by Optuna; hydra.sweeper.n_trials, direction and metrics say how many and to what end",
    },
    "hydra/launcher": {
        "shared": "all arms of this machine over one base",
        "joblib": "arms in processes of their own",
        "submitit_local": "arms as submitit's jobs, on this machine",
        "submitit_slurm": "arms as jobs of a Slurm cluster",
    },
}
"""The groups of Hydra's own that a sweep chooses in, with what each option does."""
SAMPLER = {"sampler": ("tpe", "random", "qmc", "nsgaii"), "direction": ("maximize", "minimize")}
OPTUNA = ("n_trials", "n_jobs", "direction", "metrics", "sampler", "sampler_options", "seed")
"""Keys of `hydra.sweeper` with `hydra/sweeper=optuna`; `SAMPLER`: the words of those that take words."""
GLOBAL = "# @package _global_\n"
"""How a file of values over all sections begins."""


@dataclasses.dataclass(frozen=True)
class Schema:
    """What a command's keys are. root: the dataclass. groups: its fields that are folders of options. main: the file of all others.

    numbers, words, paths: what is legal for which key.
    """

    root: type
    groups: tuple[str, ...]
    main: str
    numbers: Mapping[str, bounds.Bounds]
    words: Mapping[str, bounds.Words]
    paths: Iterable[str]


EXPERIMENT = Schema(Experiment, (*DIALS, RECIPE), TRAIN, bounds.BOUNDS, bounds.WORDS, paths.PATHS)


def reference(conf: Path, sweeps: Path | None, schema: Schema = EXPERIMENT) -> dict[str, Any]:
    """Plain values for JSON.

    groups: by group, each option's header comment. sweeps: the questions of the sweep files. help: header and footer of `--help`.
    keys: by dotted key, `Legal` as a dict with `comments`, by option (`Schema.main` for what is in no group).
    hydra: groups, as `HYDRA`, and keys, as above but without comments; empty where there are no sweeps.
    """
    options = [path for path in sorted(conf.glob("*/*.yaml")) if path.parent.name in schema.groups]
    files = {(path.parent.name, path.stem): path.read_text(encoding="utf-8") for path in options}
    train = (conf / f"{schema.main}.yaml").read_text(encoding="utf-8")
    comments: dict[str, dict[str, str]] = {}
    for key, comment in comments_of(train).items():
        comments.setdefault(key, {})[schema.main] = comment
    for dial, option in (file for file in files if file[0] != RECIPE):
        for key, comment in inherited(files, dial, option).items():
            comments.setdefault(f"{dial}.{key}", {})[option] = comment
    keys = {key: dataclasses.asdict(found) | {"comments": comments.get(key, {})} for key, found in legal_values(schema)}
    texts = LOADER(train).get_single_data()["hydra"]["help"]
    return {
        "groups": {each: {option: header(text) for (group, option), text in files.items() if group == each} for each in schema.groups},
        "sweeps": {path.stem: header(path.read_text(encoding="utf-8")) for path in sorted(sweeps.glob("*.yaml") if sweeps else ())},
        "help": {part: texts[part] for part in ("header", "footer")},
        "keys": keys,
        "hydra": {
            "groups": HYDRA if sweeps else {},
            "keys": {f"hydra.sweeper.{key}": dataclasses.asdict(sampling(key)) for key in OPTUNA if sweeps},
        },
    }


def sampling(key: str) -> Legal:
    """What a key of `OPTUNA` takes."""
    words = SAMPLER.get(key, ())
    return Legal(words, enumerated(words) if words else "", False, False)


def header(text: str) -> str:
    """The first comment of a file behind Hydra's own, up to where another word of its header begins; without `Question:`."""
    lines = []
    for line in text.removeprefix(GLOBAL).splitlines():
        if not line.startswith("#") or (lines and re.match(r"# [A-Z][\w ]*:", line)):
            break
        lines.append(line.lstrip("# ").strip())
    return " ".join(lines).removeprefix("Question: ")


def inherited(files: dict[tuple[str, str], str], dial: str, option: str) -> dict[str, str]:
    """The comments of an option, and of those that its defaults name for what it says nothing of; "" where a key has none."""
    text = files[dial, option]
    parents = [one for one in (LOADER(text).get_single_data().get("defaults") or []) if isinstance(one, str) and (dial, one) in files]
    merged: dict[str, str] = {}
    for parent in parents:
        merged |= inherited(files, dial, parent)
    return merged | {key: comment or merged.get(key, "") for key, comment in comments_of(text).items()}


def comments_of(text: str) -> dict[str, str]:
    """The comment behind each key of a YAML text, by dotted key; comment lines below it in the same column go on with it. "": none."""
    lines = text.splitlines()
    comments = {}
    for key, line, column in places(yaml.compose(text, LOADER)):
        behind = re.match(r":?\s*# ?", lines[line][column:])
        comments[key] = ""
        if behind is None:
            continue
        start = column + behind.end()
        words = [lines[line][start:].strip()]
        mark = lines[line].index("#", column)
        for below in lines[line + 1 :]:
            if below[:mark].strip() or not below[mark:].startswith("#"):
                break
            words.append(below[mark + 1 :].strip())
        comments[key] = " ".join(words)
    return comments


def places(node: yaml.Node, prefix: str = "") -> Iterator[tuple[str, int, int]]:
    """Each key of a mapping with line and column behind it, or behind its value where that ends on the same line."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        block = not value.flow_style if isinstance(value, yaml.CollectionNode) else value.style in ("|", ">")
        mark = key.end_mark if block else value.end_mark
        yield f"{prefix}{key.value}", mark.line, mark.column
        yield from places(value, f"{prefix}{key.value}.")


@dataclasses.dataclass(frozen=True)
class Legal:
    """What a key takes. words: those that can be completed. told: all that is legal, in a few words; empty: any text."""

    words: tuple[str, ...]
    told: str
    is_list: bool
    is_path: bool


def legal_values(schema: Schema = EXPERIMENT) -> Iterator[tuple[str, Legal]]:
    """Every key of the schema but sections and the names of options."""
    for key, hint in leaves(schema.root):
        if key.partition(".")[0] not in schema.groups or not key.endswith(".name"):
            yield key, legal(key, hint, schema)


def leaves(schema: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of the schema that is no section, with its type."""
    for name, hint in typing.get_type_hints(schema).items():
        if dataclasses.is_dataclass(hint):
            yield from leaves(typing.cast(type, hint), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", hint


def without_null(hint: Any) -> tuple[Any, bool]:
    """A key's type but for null, and whether null is legal."""
    alternatives = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next(one for one in alternatives if one is not type(None)), type(None) in alternatives


def legal(key: str, hint: Any, schema: Schema) -> Legal:
    """What one key takes, by its type and the tables of `lab.bounds`."""
    kind, nullable = without_null(hint)
    null = ("null",) if nullable else ()
    is_list = typing.get_origin(kind) is list
    kind = typing.get_args(kind)[0] if is_list else kind
    words, told = words_of(key, kind, schema)
    text = enumerated([*told, *null]) if told else ""
    if key in schema.numbers:
        text = schema.numbers[key].range + (", or null" if null else "")
    return Legal((*words, *null), f"list of {text}" if is_list and text else text, is_list, key in schema.paths)


def words_of(key: str, kind: Any, schema: Schema) -> tuple[tuple[str, ...], list[str]]:
    """The words that a key takes, and the same with what is told of others."""
    if kind is bool:
        return ("true", "false"), ["true", "false"]
    if isinstance(kind, type) and issubclass(kind, Enum):
        words = tuple(member.value for member in kind)
        return words, list(words)
    if key in schema.words:
        found = schema.words[key]
        return found.legal, [*found.legal, *([found.also_told] if found.also_told else [])]
    return (), []


def enumerated(words: Iterable[str]) -> str:
    """`a, b or c`."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last
