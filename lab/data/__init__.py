"""Which questions: `load(dial, cache_dir) -> Splits`. One module of `sets/` per data set, imported only when it is asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import bounds, paths, plugins
from lab.benchmark_specs import ALIASES, SPECS
from lab.errors import ConfigError, DataError, LabError, did_you_mean
from lab.records import Part, Regions

if TYPE_CHECKING:
    from lab.config import DataDial
    from lab.records import Split, Splits

    Loader = Callable[[DataDial, Path], Splits]

NAMES = tuple(sorted({path.stem for path in (Path(__file__).parent / "sets").glob("[!_]*.py")} | {*SPECS}))
"""Every module of `sets/`, and every benchmark of `lab.benchmark_specs`: a new one is that file, or that entry, and its `conf/data/*.yaml`."""


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set, before anything of it is read.

    kind: of its answers (`Splits.kind`); None: each file decides. asks: what a prompt must frame, of `lab.prompt.ASKS`; None: either.
    diagnostic: nothing is learned from it. clips: it may have any, which `data.video` samples. zero_shot: what `evaluation.zero_shot=null` comes to.
    make: draws what the cache lacks and `load` reads (`lab.data.ahead`); None: nothing is drawn beforehand.
    """

    load: Loader
    kind: str | None = None
    asks: str | None = None
    diagnostic: bool = False
    clips: bool = False
    zero_shot: bool = False
    make: Callable[[DataDial, Path], object] | None = None


NAME = "[a-z][a-z0-9_]*"
"""Names of data sets."""
OWN: dict[str, DataSet] = {}
"""What `register` added."""


def register(name: str, load: Loader) -> None:
    """Add a data set, asked for as `data.name=NAME`. Raises `LabError` for a name that is taken, or that no file could have.

    load: makes the splits that a dial describes (`lab.data.splits.finish` checks their images), given the folder of caches;
    raises `ConfigError` for a key of the dial that it does not take, `DataError` for bad data.
    """
    if name in (*NAMES, *OWN) or not re.fullmatch(NAME, name):
        raise LabError(f"data set {name!r}: a name is lower-case letters, digits and _, and none of {', '.join((*NAMES, *OWN))}.")
    OWN[name] = DataSet(load)


def named(name: str) -> DataSet:
    """The data set called `name`; a `ConfigError` lists the legal ones."""
    if name in OWN:
        return OWN[name]
    if name not in NAMES:
        raise ConfigError(
            f"data.name={name}: legal values are {', '.join((*NAMES, *OWN))}; one of your own comes with plugins=[FOLDER]."
            f"{did_you_mean(name, (*NAMES, *OWN))}"
        )
    if name in SPECS:
        return importlib.import_module("lab.data.benchmarks.loading").data_set(name)
    return importlib.import_module(f"lab.data.sets.{name}").DATA_SET


def check_dial(dial: DataDial, trains: bool) -> None:
    """Check the dial before anything is read. trains: there are to be optimizer steps. Raises `ConfigError`."""
    if named(dial.name).diagnostic and trains:
        raise ConfigError(
            f"data={dial.name}: it is diagnostic only and has no train split, but trainer asks for steps. Add trainer.max_steps=0 "
            f"lora=none for the zero-shot baseline, or score a trained run on it: python -m lab.evaluate --run ID data={dial.name}."
        )
    check_augment(dial)
    check_video(dial)
    for part in parts_of(dial):
        check_dial(part.dial, trains)


def check_augment(dial: DataDial) -> None:
    """Raise a `ConfigError` for augmentations of data that has no boxes, or a scale whose least is above its most."""
    unset = type(dial.augment)()
    for key, value in vars(dial.augment).items():
        if value != getattr(unset, key) and named(dial.name).kind != Regions.kind:
            raise ConfigError(
                f"data.augment.{key}={bounds.spelled(value)}: data={dial.name} has no boxes that would move with the picture, and what is asked of a "
                f"changed one may no longer be true. Give data.augment.{key}={bounds.spelled(getattr(unset, key))}, or data=boxes."
            )
    if dial.augment.scale[0] > dial.augment.scale[1]:
        raise ConfigError(f"data.augment.scale={bounds.spelled(dial.augment.scale)}: the least factor comes first, as in [0.8,1.25].")


def check_video(dial: DataDial) -> None:
    """Raise a `ConfigError` for a rule of sampling that contradicts itself, or that data without clips do not read."""
    video, unset = dial.video, type(dial.video)()
    for key, value in vars(video).items():
        if value != getattr(unset, key) and not named(dial.name).clips:
            raise ConfigError(f"data.video.{key}={value}: data={dial.name} has no clips that it would sample; leave it out.")
    if video.fps is not None and video.num_frames is not None:
        raise ConfigError(
            f"data.video.fps={video.fps}, data.video.num_frames={video.num_frames}: a clip is sampled by one of them. Set the other to null."
        )
    if video.min_frames > video.max_frames:
        raise ConfigError(f"data.video.min_frames={video.min_frames}: it is more than data.video.max_frames={video.max_frames}.")


def load(dial: DataDial, cache_dir: Path) -> Splits:
    """Read the data set that the dial names, every record and image checked.

    cache_dir: where made tables and the list of verified images are kept (`tracking.cache_dir`).
    Raises `ConfigError` for an illegal value of the dial, `DataError` for data that is missing or bad.
    """
    from lab.data import ahead

    check_dial(dial, trains=False)
    ahead.finish()
    for key in ("root", "path"):
        if (spelled := getattr(dial, key)) is not None:
            dial = dataclasses.replace(dial, **{key: paths.expanded(spelled, f"data.{key}")})
    return named(dial.name).load(dial, Path(cache_dir))


@dataclasses.dataclass(frozen=True)
class Option:
    """A data option in one text, with keys of its dial and of its own: `questions path=b.csv as=street prompt=question`.

    name: of its predictions and numbers, `as` or that of the data set. prompt: an option of `prompt`; None: `lab.prompt.of_data` chooses.
    weight, epochs, cap: of a part of a mixture (`lab.data.sets.mixture`).
    """

    spelled: str
    name: str
    dial: DataDial
    prompt: str | None = None
    weight: float | None = None
    epochs: float | None = None
    cap: int | None = None

    def load(self, cache_dir: Path) -> Part:
        """Read it. Raises as `lab.data.load` does, saying how keys of this option are given."""
        try:
            splits = load(self.dial, cache_dir)
        except DataError as error:
            raise DataError(f"'{self.spelled}': {error}\nIts keys are given in the same text, as in '{self.spelled} on_bad=skip'.") from None
        return Part(self.name, self.dial, splits, self.prompt, self.weight, self.epochs, self.cap)


WHOLE = ("order", "questions_per_image")
"""Keys of a mixture's own dial: they are of all its parts together."""
NAMING, MIXING = ("as", "prompt"), {"weight": float, "epochs": float, "cap": int}
"""Keys of an option that are not of its dial; those that a part of a mixture has too, with their types."""


@functools.cache
def option(spelled: str, key: str = "evaluation.also") -> Option:
    """A data option from its text, such as `winoground root=/data/w`. key: that it is a value of. Raises `ConfigError`."""
    name, *keys = shlex.split(spelled) or [""]
    name, source = ALIASES.get(name, name), f"{key}=[{spelled}]"
    if name not in (known := (*NAMES, *OWN)):
        raise ConfigError(f"{source}: legal values begin with {', '.join(known)}.{did_you_mean(name, known)}")
    legal = (*NAMING, *(MIXING if key == "data.parts" else ()))
    own = {word.partition("=")[0]: word.partition("=")[2] for word in keys if word.partition("=")[0] in legal}
    if not re.fullmatch(NAME, own.get("as", name)):
        raise ConfigError(f"{source}: as={own['as']} is no name: lower-case letters, digits and _, the first a letter.")
    numbers = {one: number_of(own[one], kind, f"{source}: {one}={own[one]}") for one, kind in MIXING.items() if one in own}
    dial = dial_of(name, [word for word in keys if word.partition("=")[0] not in own], source)
    return Option(spelled, own.get("as", name), dial, own.get("prompt"), **numbers)


def number_of(text: str, kind: type, source: str) -> Any:
    """A number above 0. source: heads the `ConfigError` for what is none."""
    with contextlib.suppress(ValueError):
        if 0 < (number := kind(text)) < bounds.COUNT:
            return number
    raise ConfigError(f"{source} is no {'whole ' if kind is int else ''}number above 0.")


def parts_of(dial: DataDial) -> list[Option]:
    """The parts of a mixture; none of other data. Raises `ConfigError` for what is no part, or cannot be mixed."""
    if dial.name != "mixture":
        if dial.parts:
            raise ConfigError(f"data.parts={dial.parts}: data={dial.name} does not read it; leave it out, or choose data=mixture.")
        return []
    reject_others(dial)
    parts = [option(spelled, "data.parts") for spelled in dial.parts]
    source = f"data.parts={dial.parts}"
    if not parts or any(part.dial.name == dial.name for part in parts):
        raise ConfigError(f"{source}: parts are data options other than mixture, one at least, as in 'questions path=q.csv'.")
    names = [part.name for part in parts]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"{source}: two parts are called {twice[0]}. Give one another name, as in '{twice[0]} path=b.csv as=other'.")
    if {part.weight is None for part in parts} == {True, False}:
        raise ConfigError(f"{source}: all parts have a weight, or none has: {', '.join(p.name for p in parts if p.weight is None)} lacks one.")
    if parts[0].prompt is not None:
        raise ConfigError(f"{source}: prompt={parts[0].prompt}: the first part is put as the run's own prompt says. Give prompt={parts[0].prompt}.")
    for part in parts:
        if part.dial.order != type(part.dial)().order:
            raise ConfigError(f"{source}: {part.name}: a mixture has one order. Give data.order={part.dial.order} beside its parts.")
        if part.dial.augment != type(part.dial.augment)():
            raise ConfigError(f"{source}: {part.name}: data.augment changes no picture in a mixture. Leave its keys out.")
    return parts


def reject_others(dial: DataDial) -> None:
    """Refuse keys of a mixture's dial that its parts have."""
    unset = type(dial)()
    for key, value in vars(dial).items():
        if key not in ("name", "parts", *WHOLE) and value != getattr(unset, key):
            raise ConfigError(f"data.{key}={bounds.spelled(value)}: each part of a mixture has its own. Give it there, as in 'pairs {key}={value}'.")


def lead(dial: DataDial) -> DataDial:
    """The data that a run's own minival and dev are of: the first part of a mixture."""
    return next((option.dial for option in parts_of(dial)), dial)


def prompt_of(name: str) -> str:
    """The option of `prompt` that a data option chooses, or else `conf/train.yaml` for it."""
    from omegaconf import OmegaConf

    file = next((file for file in files_of(name) if file.is_file()), None)
    defaults: Any = OmegaConf.to_container(OmegaConf.load(file)) if file else {}
    chosen = [one["override /prompt@_global_.prompt"] for one in defaults.get("defaults", ()) if "override /prompt@_global_.prompt" in one]
    return chosen[0] if chosen else "declarative"


def files_of(name: str) -> list[Path]:
    """Where a data option's values may lie."""
    return [folder / "data" / f"{name}.yaml" for folder in (paths.shipped("conf"), *plugins.conf_folders())]


def dial_of(name: str, keys: Sequence[str], source: str, **given: Any) -> DataDial:
    """A data option with keys such as `root=/data/w`, and values as they are. source: heads the `ConfigError` for a wrong one."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from lab.config import DataDial, Experiment
    from lab.explaining import of_section

    try:
        file = next((file for file in files_of(name) if file.is_file()), None)
        option: Any = OmegaConf.load(file) if file else OmegaConf.create({"name": name})
        option.pop("defaults", None)  # of other dials
        dial: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataDial), option, given, OmegaConf.from_dotlist(list(keys))))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{source}: {of_section(error, 'data')}") from None
    bounds.check(Experiment(data=dial), "data.")
    check_dial(dial, trains=False)
    return dial


def stored(values: Mapping[str, Any]) -> DataDial:
    """The dial of a run's stored config. Raises `ConfigError` for one of another version."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from lab.config import DataDial
    from lab.freezing.schema import literal

    try:
        dial: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataDial), literal(dict(values))))
        return dial
    except OmegaConfBaseException as error:
        raise ConfigError(f"the stored config of its data is none of this version of the laboratory ({error.msg or error}).") from None


def require_split(splits: Splits, part: str) -> Split:
    """Return a split that must not be empty, such as `train` for training. Raises a `DataError` that says why one is."""
    split: Split = getattr(splits, part)
    if len(split) == 0:
        why = getattr(split, "absent", "") or "nothing is left in it."
        raise DataError(f"the {part} split is empty: {why}")
    return split


def fingerprint(split: Split) -> str:
    """Return the SHA-256 of ids, texts, turns and answers in order: what a run was trained or scored on, but for its images.

    Of a split with a `digest` of its own, which has too many samples to read them all, it is that.
    """
    if known := getattr(split, "digest", ""):
        return known
    digest = hashlib.sha256()
    for sample in map(split.index, range(len(split))):
        turns = "".join(f"{turn}\0" for turn in sample.turns)
        digest.update(f"{sample.sample_id}\0{sample.text}\0{sample.answer.key}\0{turns}".encode())
    return digest.hexdigest()
