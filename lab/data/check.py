"""lab data check: read data of the user's as a whole and say what training would meet. Exit code 0: they can train."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab import data, paths, plugins
from lab.cli import bounded, compose, program, run_cli, set_up_logging
from lab.config import DIALS, DataDial, Experiment, OnBad
from lab.data.box_file import formats
from lab.data.conversation_file import checking
from lab.data.question_only import question_only
from lab.data.sets import boxes, conversations, questions
from lab.data.splits import PARTS, Records
from lab.errors import ConfigError, DataError, did_you_mean
from lab.freezing.schema import legal_keys
from lab.host.progress import bars
from lab.records import Sample

MOST_SHOWN = 20
"""Problems and answers that are listed before the rest is counted."""


def main() -> int:
    """Command-line entry point."""
    parser = argparse.ArgumentParser(
        prog=program("lab.data.check"), description="Say what training would make of data of yours, and what is wrong with them: exit code 1."
    )
    parser.add_argument(
        "words", nargs="+", metavar="FILE or KEY=VALUE",
        help="a file of questions or boxes, then data.KEY=VALUE; or the keys of lab train: data=conversations data.sources=[a.json] data.root=FOLDER",
    )  # fmt: skip
    parser.add_argument("--cache-dir", type=paths.argument, default=Path("cache"), metavar="DIR", help="tracking.cache_dir (default: cache)")
    parser.add_argument("--sample", type=bounded(int, 1), metavar="N", help="of conversations: the pictures and clips of N records, not of all")
    parser.add_argument(
        "--show", type=bounded(int, 0), default=0, metavar="N",
        help="also the first N samples of train as the model will see them, tokens under loss marked; model=, prompt= and data= as of lab train",
    )  # fmt: skip
    given = parser.parse_intermixed_args()
    set_up_logging()
    return run_cli(lambda: act(given.words, given.cache_dir, given.sample, given.show))


def act(words: Sequence[str], cache_dir: Path, sample: int | None, number: int = 0) -> int:
    """Check what is named. number: of samples that are shown."""
    files = [word for word in words if "=" not in word or Path(word).exists()]
    if len(files) > 1:
        raise ConfigError(f"{files[1]}: one file is checked at a time; several manifests are data=conversations data.sources=[a.json,b.json].")
    overrides = [word for word in words if word not in files]
    plugins.load(plugins.named(overrides))
    values, unread = values_of(overrides)
    if unread and not number:
        print(f"keys that say nothing of data, and are not read here: {', '.join(unread)}")
    name, told = str(values.pop("", "")), " ".join(words)
    if files:
        path = paths.expanded(files[0], "data.path")
        name = name or ("boxes" if formats.format_of(Path(path)) else "questions")
        values["path"] = path
    if not name:
        raise ConfigError(f"{told}: no data are named. Type a FILE, or data=conversations data.sources=[a.json] data.root=FOLDER.")
    dial = data.dial_of(name, [], told, **values)
    of_records = data.named(name) is conversations.DATA_SET
    if sample is not None and not of_records:
        raise ConfigError(f"--sample {sample}: data={name} is looked at as a whole; leave it out.")
    if of_records:
        code = checking.check(dial, cache_dir, sample, bars())
    else:
        code = check(dial, cache_dir) if name in ("boxes", "questions") else loaded(dial, cache_dir)
    if number and code == 0:
        chosen = [] if any(word.startswith("data=") for word in overrides) else [f"data={name}"]
        print(shown([*chosen, *([f"data.path={values['path']}"] if files else []), *overrides], number, cache_dir))
    return code


def shown(overrides: Sequence[str], number: int, cache_dir: Path) -> str:
    """The first samples of train as the model of an experiment will see them; with pictures in `cache_dir`."""
    from lab.run import transcripts  # which imports what trains
    from lab.sweeping.launcher import register

    register()
    x = compose(overrides)
    train = data.load(x.data, cache_dir).train
    return transcripts.show(x, (train[place] for place in range(len(train))), number, cache_dir / "shown.html", sys.stdout.isatty())


def values_of(overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """What KEY=VALUE say of the data, as `lab.train` reads them, under "" the option that `data=` chooses; and other keys of it.

    Raises `ConfigError`.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    found: Any = OmegaConf.create({})
    option, unread = {}, []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.get_key_element()
        if key == "data":
            option = {"": override.value()}
        elif key.startswith("data."):
            OmegaConf.update(found, key.removeprefix("data."), override.value())
        elif key not in (legal := [*legal_keys(Experiment), *DIALS]):
            raise ConfigError(f"{override.input_line}: there is no such key.{did_you_mean(key, legal)}")
        elif key != "plugins":
            unread.append(key)
    values: Any = OmegaConf.to_container(found)
    return values | option, unread


def loaded(dial: DataDial, cache_dir: Path) -> int:
    """Read other data as training would, and say what there is; 0 if they can train, else 1."""
    try:
        splits = data.load(dial, cache_dir)
    except DataError as error:
        print(f"problem: {error}")
        return 1
    for sentence in (*(f"  {part:<8} {len(getattr(splits, part)):>9,}" for part in PARTS), *splits.notes):
        print(sentence)
    for skipped in splits.skipped:
        print(f"problem: {skipped.source}: {skipped.reason}")
    print(f"it can train{f', without {len(splits.skipped):,} bad records' if splits.skipped else ''}.")
    return 0


def check(dial: DataDial, cache_dir: Path) -> int:
    """Print what the file holds and what is wrong with it; 0 if it can train, else 1."""
    of_boxes = dial.name == "boxes"
    read = (boxes if of_boxes else questions).read(dial, cache_dir)
    good = [sample for part in PARTS for sample in read.parts[part]]
    print(f"{dial.path}: {len(good)} good questions ({kinds(good)}) about {len({one.images for one in good})} pictures or sets of them")
    for part in PARTS:
        print(f"  {part:<8} {len(read.parts[part]):>7} questions{'' if of_boxes else majority(read.parts[part])}")
    for sentence in [*([] if of_boxes else answers(read.parts)), *read.notes, *([] if of_boxes else repeated(good))]:
        print(f"  {sentence}")
    problems = list(dict.fromkeys(str(fault) for fault in read.faults))
    fatal = [f"no good question is left in {part}." for part in ("train", "dev") if not read.parts[part]]
    fatal += [read.leak] if read.leak and not dial.allow_shared_images else []
    for problem in [*fatal, *problems[:MOST_SHOWN]]:
        print(f"problem: {problem}")
    if len(problems) > MOST_SHOWN:
        print(f"problem: and {len(problems) - MOST_SHOWN} more bad rows")
    trains = not fatal and (not problems or dial.on_bad is OnBad.skip)
    remedy = "" if trains or fatal else " Mend the rows, or leave them out with data.on_bad=skip."
    print(f"it can train{f', without {len(problems)} bad rows' if problems else ''}." if trains else f"it cannot train.{remedy}")
    return 0 if trains else 1


def answers(parts: Mapping[str, Sequence[Sample]]) -> list[str]:
    """What a look at no picture scores, and the distribution of answers."""
    blind = question_only(Records(parts["train"]), Records(parts["dev"]))
    baseline = "no baseline from train" if blind is None else f"the question's commonest answer in train is right in {blind:.1%} of dev"
    return [baseline, distribution([sample for part in PARTS for sample in parts[part]])]


def kinds(samples: Sequence[Sample]) -> str:
    """How many have which kind of answer."""
    return ", ".join(f"{kind}: {number}" for kind, number in Counter(sample.answer.kind for sample in samples).items()) or "none"


def majority(samples: Sequence[Sample]) -> str:
    """How often always giving the commonest answer is right."""
    commonest = Counter(sample.answer.text for sample in samples).most_common(1)
    return "".join(f"; always {answer!r} is right in {number / len(samples):.1%}" for answer, number in commonest)


def distribution(samples: Sequence[Sample]) -> str:
    """The commonest answers with their counts."""
    counts = Counter(sample.answer.text for sample in samples)
    shown = ", ".join(f"{text!r} {count}" for text, count in counts.most_common(MOST_SHOWN))
    return f"distinct answers: {len(counts)}: {shown}{', ...' if len(counts) > MOST_SHOWN else ''}"


def repeated(samples: Sequence[Sample]) -> list[str]:
    """Questions that are asked of the same pictures more than once."""
    answers: dict[tuple, set[str]] = {}
    for sample in samples:
        answers.setdefault((sample.text, sample.images), set()).add(sample.answer.key)
    twice, differing = len(samples) - len(answers), sum(len(each) > 1 for each in answers.values())
    return [f"questions asked again of the same pictures: {twice}; of these questions {differing} have different answers."] if twice else []


if __name__ == "__main__":
    sys.exit(main())
