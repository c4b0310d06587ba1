"""lab predict RUN PICTURES: what a finished run answers about pictures of one's own, as a table and a page. Light until it starts."""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lab import paths, plugins
from lab.cli import add_max_time, add_run, bounded, program, run_stoppable, set_up_logging, take_run
from lab.errors import ConfigError, DataError
from lab.finished import changed, find
from lab.host.files import write_atomically

if TYPE_CHECKING:
    import pyarrow as pa

    from lab.run.predicting import Predicted
    from lab.store.runs import Run

log = logging.getLogger(__name__)

OVERRIDE = re.compile(r"[a-z_]+(\.[a-z_]+)*=.*", re.DOTALL)
MOST_SHOWN = 20
"""Bad questions that are printed before the rest is counted."""
MOST_CASES = 60
FORMATS = ("coco", "yolo", "label-studio")
"""Of files of boxes that are written unasked."""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        prog=program("lab.predict"),
        usage=f"{program('lab.predict')} RUN PICTURES ... [--question TEXT] [KEY=VALUE ...] [options]",
        description="Ask a finished run about pictures or clips: one question about each, or the questions of a file. Its own prompt, dials and "
        "adapter answer, under its contract, as in its evaluation. Writes FOLDER/predictions.csv and .parquet (image, question, answer, "
        "probability), gallery.html, prediction.json, and failed.csv (source, reason: bad pictures and questions; of one the exit code is 1).",
        epilog="A file is CSV, TSV, JSON, JSON Lines or Parquet with columns image (or images, as a.png|b.png), video or videos, question, and "
        "choices where they differ; data.columns.question=Frage names yours. Of a run over conversations it may be a manifest too, each asked "
        "for its last answer. Other KEY=VALUE change how it runs: evaluation.batch_size=8.",
    )
    made.add_argument("words", nargs="*", metavar="RUN PICTURES", help="a run's identity or its first digits; pictures, clips, folders, or one file")
    add_run(made)
    made.add_argument("--question", metavar="TEXT", help="what is asked of every picture or clip, or stated where the run's prompt has "
                      "statements; over conversations <image> and <video> in it say where they stand")  # fmt: skip
    made.add_argument("--to", type=paths.argument, default=Path("predictions"), metavar="FOLDER", help="where to write (default: predictions)")
    made.add_argument("--format", type=formats, metavar="NAME,...", help=f"files of boxes for labelling tools (default: {','.join(FORMATS)}; "
                      "also fiftyone), most doubtful pictures first")  # fmt: skip
    made.add_argument("--overwrite", action="store_true", help="write into a folder that holds files")
    made.add_argument("--gallery", type=bounded(int, 0), default=MOST_CASES, metavar="N", help=f"most in gallery.html (default: {MOST_CASES})")
    add_max_time(made)
    made.add_argument("--runs-dir", type=paths.argument, default=Path("runs"), metavar="DIR", help="where run folders lie (default: runs)")
    return made


def formats(given: str) -> list[str]:
    """`coco,yolo` as a list."""
    return [name.strip() for name in given.split(",") if name.strip()]


def flat(rows: pa.Table) -> pa.Table:
    """The same with lists as JSON, for CSV."""
    import pyarrow as pa

    for place, field in enumerate(rows.schema):
        if pa.types.is_nested(field.type):
            rows = rows.set_column(place, field.name, pa.array([json.dumps(value) for value in rows.column(place).to_pylist()]))
    return rows


def write(predicted: Predicted, folder: Path, number: int, formats: Sequence[str] | None = None) -> None:
    """Write table, page and facts, and boxes in files for labelling tools; number: of answers on the page at most."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    from lab.answers.regions import RegionsTable
    from lab.data.box_file import writing
    from lab.store import runs

    rows, skipped = predicted.arrow(), predicted.splits.skipped
    write_atomically(folder / "predictions.parquet", lambda path: parquet.write_table(rows, path, compression="zstd"))
    write_atomically(folder / "predictions.csv", lambda path: csv.write_csv(flat(rows), path))
    bad = pa.table({name: pa.array([getattr(one, name) for one in skipped], pa.string()) for name in ("source", "reason")})
    write_atomically(folder / "failed.csv", lambda path: csv.write_csv(bad, path))
    write_atomically(folder / "gallery.html", page(predicted, number))
    if isinstance(predicted.table, RegionsTable):
        boxed = writing.of_table(predicted.table, predicted.splits.dev, folder / "pictures")
        writing.write(boxed, folder, FORMATS if formats is None else formats, predicted.run.identity)
    facts = {
        "run": predicted.run.identity, "n": len(rows), "skipped": len(skipped), "notes": list(predicted.splits.notes),
        "contract": predicted.contract, "ended": runs.now(),
    }  # fmt: skip
    write_atomically(folder / "prediction.json", json.dumps(facts, indent=1) + "\n")


def page(predicted: Predicted, number: int) -> str:
    """Pictures, questions and answers on one page that needs nothing beside it."""
    from lab.report.document import Block, Bullets, Heading, Mono, Paragraph, Warn
    from lab.report.gallery import answers_gallery
    from lab.report.webpage import to_html

    run, skipped = predicted.run, predicted.splits.skipped
    blocks: list[Block] = [
        Heading(1, f"Answers of {run.name}"),
        Paragraph(("Run ", Mono(run.identity), ", made by ", Mono(run.command), "; asked as in its evaluation, under its contract.")),
    ]
    if skipped:
        more = f" and {len(skipped) - MOST_SHOWN} more in failed.csv" if len(skipped) > MOST_SHOWN else ""
        blocks.append(Warn(f"{len(skipped)} questions have no answer, as they or their pictures are bad{more}:"))
        blocks.append(Bullets(tuple((Mono(one.source), f": {one.reason}") for one in skipped[:MOST_SHOWN])))
    return to_html([*blocks, *answers_gallery(predicted.table, predicted.splits.dev, number)], f"Answers of {run.name}")


def require_room(folder: Path, overwrite: bool) -> None:
    """Raise a `DataError` for a folder whose files would be replaced unasked."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"--to {folder}: it is a file. Name a folder.")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise DataError(f"--to {folder}: it holds files, and nothing is overwritten unasked. Name another folder, or add --overwrite.")


def require_boxes(run: Run, runs_dir: Path, formats: Sequence[str] | None) -> None:
    """Raise a `ConfigError` for formats of boxes that are none, or of a run that answers with something else."""
    if formats is None:
        return
    from lab.artifacts import contract
    from lab.data.box_file import writing
    from lab.records import Regions
    from lab.store import runs

    writing.check(formats)
    kind = contract.load(runs.folder(runs_dir, run.identity))["answers"]["kind"]
    if kind != Regions.kind:
        raise ConfigError(f"--format {','.join(formats)}: run {run.identity} answers with a {kind}, and these are files of boxes. Leave it out.")


def printed(predicted: Predicted, folder: Path) -> str:
    """The lines that a person reads."""
    first = predicted.arrow().slice(0, 5).to_pylist()
    shown = [f"  {row['image'] or row.get('video', '')}  {row['question']}  {row['answer']} ({100 * row['probability']:.0f} %)" for row in first]
    skipped = predicted.splits.skipped
    bad = [f"skipped: {one.source}: {one.reason}" for one in skipped[:MOST_SHOWN]]
    bad += [f"skipped: and {len(skipped) - MOST_SHOWN} more, all in {folder / 'failed.csv'}"] if len(skipped) > MOST_SHOWN else []
    more = len(predicted.table) - len(shown)
    ends = [f"{len(predicted.table)} answers, {len(skipped)} skipped: {folder / 'predictions.csv'}, {folder / 'gallery.html'}"]
    return "\n".join([*shown, *([f"  and {more} more"] if more else []), *bad, *ends])


def act(given: argparse.Namespace) -> int:
    """Ask, write and print; 1 if a question was skipped."""
    if not given.words:
        raise ConfigError("PICTURES: none are given. Name a run, then pictures, a folder of them, or a file of questions.")
    require_room(given.to, given.overwrite)
    plugins.load(plugins.named(given.overrides))
    from lab.run.predicting import Predictor

    run = find(given.runs_dir, given.run)
    require_boxes(run, given.runs_dir, given.format)
    keys = [one.removeprefix("data.") for one in given.overrides if one.startswith("data.")]
    predictor = Predictor(given.runs_dir, run, changed(run, [one for one in given.overrides if not one.startswith("data.")]))
    questions = predictor.questions([paths.path(word, "PICTURES") for word in given.words], given.question, keys)
    for note in questions.notes:
        log.info("%s", note)

    from lab.host.progress import bars

    predicted = predictor.answer(questions, bars())
    write(predicted, given.to, given.gallery, given.format)
    print(printed(predicted, given.to), flush=True)
    return 1 if predicted.splits.skipped else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Command-line entry point; 2 if the user must act."""
    arguments_of = parser()
    given = arguments_of.parse_intermixed_args(arguments)
    given.overrides = [word for word in given.words if OVERRIDE.fullmatch(word) and not Path(word).exists()]
    given.words = [word for word in given.words if word not in given.overrides]
    take_run(arguments_of, given, given.words)
    set_up_logging()
    return run_stoppable(lambda: act(given), given.max_time)


if __name__ == "__main__":
    sys.exit(main())
