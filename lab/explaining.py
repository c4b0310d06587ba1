"""What Hydra and OmegaConf find wrong with a command line, as a sentence: the key, what was given, what is legal or what to type. Light."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from lab import key_index
from lab.errors import ConfigError, did_you_mean
from lab.freezing.schema import legal_keys
from lab.key_index import TRAIN, Door
from lab.other_names import meant

TYPES = (
    ("could not be converted to Integer", "it must be a whole number"),
    ("could not be converted to Float", "it must be a number"),
    ("is not a valid bool", "it must be true or false"),
    ("expected one of", "there is no such word"),
    ("is not a ListConfig", "it must be a list, as in {key}=[{value}]"),
    ("Cannot convert 'list' to string", "a list is given, and one text is legal"),
    ("to Dict[", "it has keys of its own, as in {key}.NAME=VALUE"),
    (" not in '", "there is no such key"),
    ("does not support deletion", "a key cannot be taken away. Give it a value"),
)
"""What OmegaConf says of a value of another type, by a part of its sentence, and what is said instead."""


def explain(error: Exception, arguments: Sequence[str], door: Door = TRAIN) -> str:
    """The sentence for an error of Hydra's or OmegaConf's that these words of the command line led to."""
    if isinstance(error, MissingConfigException) and error.options is not None:
        return no_option(str(error.missing_cfg_file), error.options, door)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        sweeps = key_index.load()["sweeps"]
        return f"-cn {error.missing_cfg_file}: there is no such sweep.{did_you_mean(error.missing_cfg_file, sweeps)} Legal: {', '.join(sweeps)}."
    if isinstance(error, OverrideParseException):
        return unreadable(error.override, door)
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    sentence = " ".join(line.strip() for line in str(root).splitlines() if line.strip()).split(" full_key:")[0].rstrip(".")
    legal_here = legal_keys(door.schema().root)
    for argument in arguments:
        key, equals, value = argument.lstrip("+~").partition("=")
        if not equals and not argument.startswith("~"):
            continue
        if key not in legal_here and key.partition(".")[0] != "hydra" and "/" not in key:
            return f"{key}: there is no such key.{meant(key, legal_here)} `{door.command} --help` lists them all."
        if key not in str(error) and not argument.startswith("~"):
            continue
        if "/" in key and " not in '" in sentence:
            return f"{key}: there is no such group. `{door.command} --help` lists them all."
        if sentence.startswith("Ambiguous value"):
            return f"{argument}: several values make a sweep. Add -m to the command, or type {key}=[{value}] where one list is meant."
        return f"{argument}: {of_type(sentence, key, value, key_index.load(door)['keys'])}"
    return f"{sentence}."


def of_section(error: OmegaConfBaseException, section: str, door: Door = TRAIN) -> str:
    """The same for keys of one section that were put together apart from the others, as in `evaluation.also=["winoground rot=x"]`."""
    key = f"{section}.{error.full_key or error.key}"
    sentence = str(error).strip().splitlines()[0].rstrip(".")
    legal_here = legal_keys(door.schema().root)
    if " not in '" in sentence:
        return f"{key}: there is no such key.{meant(key, legal_here)} `{door.command} --help {section}` says what there is."
    return f"{key}: {of_type(sentence, key, '', key_index.load(door)['keys'])}"


def of_machine(error: BaseException) -> str | None:
    """The sentence for a disk that is full or a place that cannot be written to; None for any other error."""
    number = error.errno if isinstance(error, OSError) else None
    place = error.filename if isinstance(error, OSError) and error.filename is not None else "the disk"
    if number in (errno.ENOSPC, errno.EDQUOT) or any(full in str(error) for full in FULL):
        return f"{place}: no space is left. Free some, or name another place (tracking.runs_dir, tracking.cache_dir); the same command then goes on."
    if number in UNUSABLE and isinstance(error, OSError):
        return f"{place}: it cannot be used ({error.strerror}). Name a place that you may write to."
    return None


FULL = ("No space left on device", "database or disk is full")
"""What libraries say of a full disk whose errors carry no number."""
UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)
"""What a system says of a path that cannot be written to, or not as what it is."""


def no_option(asked: str, options: Sequence[str], door: Door) -> str:
    """About an option that a group does not have."""
    dial, _, option = asked.rpartition("/")
    said = f"{dial}={option}: there is no such option.{did_you_mean(option, options)} Legal: {', '.join(options)}."
    return f"{said} `{door.command} --help {dial}` says what each is." if dial in key_index.load(door)["groups"] else said


def unreadable(override: str, door: Door) -> str:
    """About a word that Hydra's grammar does not take."""
    key, equals, value = override.partition("=")
    if not equals:
        return f"{key}: it is given no value. Type {key}=VALUE; `{door.command} --help` lists groups and keys."
    items = value[1:-1].split(",") if value[:1] + value[-1:] == "[]" else []
    quoted = f"[{','.join(repr(item.strip()) for item in items)}]" if items else f"'{value}'"
    return f"{override}: Hydra cannot read it. Put what it would take apart in quotes of its own, as in \"{key}={quoted}\"."


def of_type(sentence: str, key: str, value: str, keys: Mapping[str, Any]) -> str:
    """About a value of another type: what is wrong, and what is legal, or the key's own comment. keys: of the index."""
    inside = [name for name in keys if name.startswith(f"{key}.")]
    if "is not a subclass of" in sentence and inside:
        return f"{key} is a section of keys, not a group with options.{meant(value, inside)} Its keys: {', '.join(inside)}."
    facts = keys.get(key, {"told": "", "words": (), "comments": {}})
    said = next((instead.format(key=key, value=value) for part, instead in TYPES if part in sentence), sentence)
    legal = facts["told"] or next(filter(None, facts["comments"].values()), "")
    near = did_you_mean(value, facts["words"]) if "no such word" in said else ""
    return f"{said}.{near}{f' Legal: {legal}.' if legal and legal not in said else ''}"


def refuse_misread(arguments: Sequence[str], door: Door = TRAIN) -> None:
    """Raise a `ConfigError` for what Hydra would pass over or answer with its usage: `hydra.launcher=joblib`, `--lr 1e-4`."""
    from hydra._internal.utils import get_args_parser

    for argument in arguments:
        group, _, option = argument.partition("=")
        if group in ("hydra.launcher", "hydra.sweeper"):
            raise ConfigError(f"{argument}: it would choose nothing, since options are chosen with a slash. Type {group.replace('.', '/')}={option}.")
    flags = [word for word in get_args_parser().parse_known_args(list(arguments))[1] if word.startswith("-")]
    if flags:
        name = flags[0].lstrip("-").partition("=")[0]
        raise ConfigError(
            f"{flags[0]}: there is no such flag. Values are given as KEY=VALUE, without dashes.{meant(name, legal_keys(door.schema().root))} "
            f"`{door.command} --help` lists groups and keys."
        )
