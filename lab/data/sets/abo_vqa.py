"""`data=abo_vqa`: the manifest of `python -m lab.curate`, read as `data=questions` reads a file (`lab.data.sets.questions`).

Free text. `image_set` = products that share a picture or are one; `subset` = what a question asks about; minival = its split validation.
"""

from __future__ import annotations

from pathlib import Path

from lab.config import DataDial
from lab.data import DataSet
from lab.data.sets import questions
from lab.errors import DataError
from lab.records import Splits


def load(dial: DataDial, cache_dir: Path) -> Splits:
    """Read the manifest. Raises `ConfigError`, or `DataError` where there is none."""
    if not Path(str(dial.path)).is_file():
        raise DataError(
            f"data.path={dial.path}: there is no such file. Make it with `python -m lab.curate to=FOLDER ...`, then give "
            "data.path=FOLDER/manifest.parquet."
        )
    return questions.load(dial, cache_dir)


DATA_SET = DataSet(load, kind="text", asks="question")
"""Questions about products that a language model asked (`lab.curation`)."""
