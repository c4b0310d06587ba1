"""`lab train --help`: the groups with their options, and every key with its value, its YAML comment and what is legal. Light.

Texts come from `lab.key_index`; Hydra composes the values, and those without overrides are kept beside the index.
"""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lab import key_index, plugins
from lab.config import RECIPE, flat
from lab.errors import ConfigError, did_you_mean
from lab.key_index import TRAIN, Door

FLAGS = ("-h", "--help")
CONFIG_NAME = ("-cn", "--config-name")
Compose = Callable[[str, list[str]], dict[str, Any]]
"""The name of a config and overrides -> the experiment as plain values."""


def requested(arguments: Sequence[str]) -> bool:
    """Whether the command asks for the manual and uses no flag that only Hydra knows how to honour."""
    flags = [argument.partition("=")[0] for argument in arguments if argument.startswith("-")]
    return any(flag in FLAGS for flag in flags) and set(flags) <= {*FLAGS, *CONFIG_NAME, "-m", "--multirun"}


def split(arguments: Sequence[str], name: str = "train") -> tuple[str, list[str], list[str]]:
    """The name of the config, the overrides, and the groups or keys to show alone."""
    overrides, shown, rest = [], [], iter(arguments)
    for argument in rest:
        flag, _, value = argument.partition("=")
        if flag in CONFIG_NAME:
            name = value or next(rest, name)
        elif "=" in argument or argument.startswith(("+", "~")):
            overrides.append(argument)
        elif not argument.startswith("-"):
            shown.append(argument)
    return name, overrides, shown


def text(arguments: Sequence[str], compose: Compose, door: Door = TRAIN) -> str:
    """The manual for a command line. Raises Hydra's own errors where its overrides do not compose, `ConfigError` for an unknown word."""
    name, overrides, shown = split(arguments, door.config)
    overrides = [override for override in overrides if not swept(override)]
    values = compose(name, overrides) if overrides else key_index.kept(f"values-{name}", lambda: compose(name, []))
    index = key_index.load(door)
    width = min(shutil.get_terminal_size((100, 24)).columns, 120) - 1
    if shown:
        return "\n".join([*narrowed(index, values, shown, width, door), ""])
    lines = table(index["help"]["header"], width, 46)
    lines += ["", "Groups, GROUP=OPTION (--help GROUP: what each option is):"]
    dials = {group: options for group, options in index["groups"].items() if group != RECIPE}
    for group, options in dials.items():
        lines += entry(group, ", ".join(sorted({*options, *own_options(group)})), width)
    for group, options in index["hydra"]["groups"].items():
        lines += entry(group, ", ".join(options), width)
    lines += ["", "Recipes, recipe=RECIPE, values over all of these:"] if RECIPE in index["groups"] else []
    for recipe, comment in index["groups"].get(RECIPE, {}).items():
        lines += entry(recipe, comment, width)
    lines += ["", "Sweeps, -cn SWEEP:"] if index["sweeps"] else []
    for sweep, question in index["sweeps"].items():
        lines += entry(sweep, question, width)
    lines += ["", "Keys with their values now, and in brackets what is legal (--help KEY: one):"]
    return "\n".join([*lines, *keys(index, values, width, door.config), "", *table(index["help"]["footer"], width), ""])


def narrowed(index: Mapping[str, Any], values: Mapping[str, Any], shown: Sequence[str], width: int, door: Door) -> Iterator[str]:
    """Groups with what each option is, and sections or keys, by their names."""
    known = [*index["groups"], *values, *flat(dict(values)), *index["hydra"]["groups"]]
    for word in shown:
        if word not in known:
            raise ConfigError(f"--help {word}: there is no such group or key.{did_you_mean(word, known)} `{door.command} --help` lists them all.")
        for option, comment in (index["groups"] | index["hydra"]["groups"]).get(word, {}).items():
            yield from entry(f"{word}={option}", comment, width)
        yield from (f"{word}={option}" for option in own_options(word))
        yield from keys(index, values, width, door.config, word)


def own_options(group: str) -> list[str]:
    """The options of a group in the folders of plugins."""
    return sorted(path.stem for folder in plugins.conf_folders() for path in (Path(folder) / group).glob("*.yaml"))


def keys(index: Mapping[str, Any], values: Mapping[str, Any], width: int, main: str, only: str = "") -> Iterator[str]:
    """Section by section, each key with its value, its comment and what is legal for it. only: of one section, or one key."""
    for section, inside in values.items():
        named = {section: inside}
        if isinstance(inside, dict):
            named = flat(inside, f"{section}.") | {f"{section}.{key}": value for key, value in inside.items() if value == {}}
        shown = {key: value for key, value in named.items() if only in ("", section, key) and not key.endswith(".name")}
        option = inside.get("name") if isinstance(inside, dict) else None
        if shown:
            yield ""
            yield from [f"{section}={option}"] if option else []
        for key, value in shown.items():
            yield from entry(f"{key}={written(value)}", described(index["keys"], key, option, main, every=only == key), width)


def described(known: Mapping[str, Any], key: str, option: str | None, main: str, every: bool = False) -> str:
    """A key's comment and what is legal for it. Where the chosen option has no such key: what most others say of it, or every one of them."""
    while key not in known and "." in key:
        key = key.rpartition(".")[0]  # what stands in a mapping, as data.columns.image
    if key not in known:
        return ""
    comments, legal = known[key]["comments"], known[key]["told"]
    said: dict[str, list[str]] = {}
    for one, text in comments.items():
        said.setdefault(text, []).append(one)
    said.pop("", None)
    comment = comments.get(option or main) or next(iter(said), "")
    if option and said and option not in comments:
        most = sorted(said, key=lambda text: -len(said[text]))[: None if every else 1]
        comment = "; ".join(f"({', '.join(said[text])}) {text}" for text in most)
        comment += "" if len(most) == len(said) else f"; in others: --help {key}"
    unsaid = set(re.findall(r"[\w-]+", legal)) - set(re.findall(r"[\w-]+", comment)) - {"or", "list", "of"}
    return f"{comment} [{unbroken(legal)}]".strip() if unsaid else comment


def unbroken(legal: str) -> str:
    """What is legal, with spaces at which no line breaks where it is short."""
    return legal.replace(" ", "\u00a0") if len(legal) <= 36 else legal


def written(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, str):
        return value if re.fullmatch(r"[\w./:+-]+", value) else json.dumps(value, ensure_ascii=False)
    return f"[{','.join(map(written, value))}]" if isinstance(value, list) else json.dumps(value)


def table(text: str, width: int, column: int = 0) -> list[str]:
    """Lines of a name, two spaces or more, and what is said of it."""
    rows = [line.partition("  ") for line in text.splitlines()]
    return [line for name, _, comment in rows for line in entry(name, comment.strip(), width, column)]


def entry(name: str, comment: str, width: int, column: int = 0) -> list[str]:
    """A name and, in a second column, what is said of it."""
    column = min(column or 38, width // 2 if column else 38 if width >= 98 else 30)
    lines = textwrap.wrap(comment, width - column, break_on_hyphens=False, break_long_words=False)
    fits = len(name) + 4 <= column
    head = [f"  {name:<{column - 2}}{lines.pop(0)}"] if fits and lines else [f"  {name}"]
    return [line.replace("\u00a0", " ") for line in [*head, *(" " * column + line for line in lines)]]


def swept(override: str) -> bool:
    """Whether an override names several values, so that no one experiment shows them."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_overrides([override])[0].is_sweep_override()
