"""lab data check FILE: read a whole file of questions or boxes and say what training would meet. Exit code 0: it can train."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab import data, paths
from lab.cli import program, run_cli, set_up_logging
from lab.config import DataDial, OnBad
from lab.data.box_file import formats
from lab.data.question_only import question_only
from lab.data.sets import boxes, questions
from lab.data.splits import PARTS, Records
from lab.errors import ConfigError
from lab.records import Sample

MOST_SHOWN = 20
"""Problems and answers that are listed before the rest is counted."""


def main() -> int:
    """Command-line entry point."""
    parser = argparse.ArgumentParser(prog=program("lab.data.check"), description="Say what data=questions or data=boxes makes of a file.")
    parser.add_argument("file", help="of questions, CSV or any table; of boxes, COCO, YOLO, VOC, CVAT, Label Studio, JSON Lines")
    parser.add_argument("--cache-dir", type=paths.argument, default=Path("cache"), metavar="DIR", help="tracking.cache_dir (default: cache)")
    parser.add_argument("overrides", nargs="*", metavar="data.KEY=VALUE", help="as for lab train: data.columns.question=Frage")
    given = parser.parse_intermixed_args()
    set_up_logging()
    return run_cli(lambda: act(given))


def act(given: argparse.Namespace) -> int:
    """Check what is named."""
    others = [each for each in given.overrides if not each.startswith("data.")]
    if others:
        raise ConfigError(f"{others[0]}: keys of data are legal here, such as data.root=FOLDER.")
    keys = [each.removeprefix("data.") for each in given.overrides]
    path = paths.expanded(given.file, "data.path")
    name = "boxes" if formats.format_of(Path(path)) else "questions"
    return check(data.dial_of(name, keys, " ".join(given.overrides) or f"data={name}", path=path), given.cache_dir)


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
