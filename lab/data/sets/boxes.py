"""`data=boxes data.path=FILE`: boxes about pictures of one's own, as a tool for labelling exports them.

`lab.data.box_file` has a file for each format: COCO JSON, a YOLO folder, Pascal VOC, Label Studio, CVAT, JSON Lines. Pictures lie beside
the file or below `data.root`. The answer to `data.question` is where the objects are (`Regions`), in pixels of the picture as it is shown;
boxes stand in reading order. Classes go by their names; `data.aliases.apples=apple` makes two one.

A picture that was reviewed and is empty is asked about, and the right answer is "none"; one that nobody has labelled is left out.
Splits are the file's own, or drawn by picture as in `data=questions`. `image_set` = the picture, or the file's `group`.
"""

from __future__ import annotations

from pathlib import Path

from lab.config import DataDial
from lab.data import DataSet
from lab.data.box_file import formats
from lab.data.box_file.samples import samples_of
from lab.data.sets import questions
from lab.data.sets.questions import Questions
from lab.data.splits import reject_unused_fields
from lab.records import Regions, Splits


def load(dial: DataDial, cache_dir: Path) -> Splits:
    """Read the file that `data.path` names. Raises `ConfigError`, or `DataError` by `data.on_bad`."""
    return questions.splits_of(read(dial, cache_dir), dial, cache_dir)


def read(dial: DataDial, cache_dir: Path) -> Questions:
    """Every picture of the file with its boxes and part. Raises `ConfigError`, or `DataError` for the file as a whole."""
    reject_unused_fields(dial, "root", "path", "sha256", "columns", "allow_shared_images", "question", "exif", "empty", "aliases")
    questions.check_unchanged(dial)
    name, reading = formats.read(dial)
    return samples_of(reading, dial, cache_dir, formats.NAMES[name].partition(" (")[0])


DATA_SET = DataSet(load, kind=Regions.kind, asks="question")
