"""`RUN/answers/<set>.jsonl`: what a run answers to a benchmark, kept as it comes, a line a question in the set's order, without a clock.

    {"id": "200", "reply": "red", "scores": {"log_p": -0.4, ...}, "picture": "9f86d081884c7d65"}

reply: what was written, or the option that was chosen. scores: of a choice log p of each option by its letter; of words `log_p`, `tokens`,
`ended`, and of the reference `log_p_reference` and `reference_tokens`, as in `lab.records.Written`. picture: by content, of several a hash.

Nothing is asked twice, and nothing is kept that another model, prompt, picture or limit of length was the cause of: `<set>.asked` beside the
file holds a digest of these. A line that was cut off, and a batch that is not whole, are asked again, so that a file that was killed any number
of times is the file of one go.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.errors import DataError
from lab.host.files import write_atomically
from lab.records import Choice, Prediction, Said, Sample, Scored, Written
from lab.training.examples import Examples

log = logging.getLogger(__name__)

OF_WORDS = ("log_p", "tokens", "ended", "log_p_reference", "reference_tokens")


class AnswersFile:
    """The answers to the questions of one set. asked: the digest of all else that they depend on. written: lines that the file has.

    found: the answers so far, in the set's order. kept: of an earlier command.
    """

    def __init__(self, path: Path, asked: str, examples: Examples) -> None:
        self.path, self.asked, self.examples, self.written = path, asked, examples, 0
        self.kept = 0
        self.found: Sequence[Prediction] = ()

    @property
    def beside(self) -> Path:
        """Where the digest lies."""
        return self.path.with_suffix(".asked")

    def first(self, batch_size: int) -> list[Prediction]:
        """The answers that are there of the first questions, in whole batches; the file is cut to them. Other answers make way, which is told."""
        known = self.beside.read_text(encoding="utf-8").strip() if self.beside.exists() else None
        if known != self.asked and self.path.exists():
            log.info("%s: it was answered by other weights, prompts or limits; it is asked anew", self.path)
        lines = self.path.read_bytes().splitlines(keepends=True) if known == self.asked and self.path.exists() else []
        found = rows_of(lines, self.examples)
        if len(found) < len(self.examples):
            found = found[: len(found) - len(found) % batch_size]
        if found:
            log.info("%s: %d of %d answers are there; the rest is asked", self.path, len(found), len(self.examples))
        self.written = self.kept = len(found)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if known != self.asked:
            self.path.unlink(missing_ok=True)
            write_atomically(self.beside, f"{self.asked}\n")
        with self.path.open("ab") as file:
            file.truncate(sum(map(len, lines[: len(found)])))
        return found

    def add(self, found: Sequence[Prediction]) -> None:
        """Append the answers behind those that the file has. found: all, from the first question on."""
        lines = [line_of(row, self.examples, place) for place, row in enumerate(found[self.written :], self.written)]
        if lines:
            with self.path.open("ab") as file:
                file.write("".join(lines).encode())
                file.flush()
                os.fsync(file.fileno())
        self.written, self.found = len(found), found


def line_of(row: Prediction, examples: Examples, place: int) -> str:
    """The line of an answer."""
    said = row.said
    if isinstance(said, Scored):
        assert isinstance(row.answer, Choice)
        reply, scores = row.answer.options[said.prediction], dict(zip(row.answer.options, said.log_p, strict=True))
    else:
        assert isinstance(said, Written)
        reply, scores = said.text, {name: getattr(said, name) for name in OF_WORDS}
    return written(row.sample_id, reply, scores, picture_of(examples, place))


def written(name: str, reply: str, scores: dict[str, Any], picture: str) -> str:
    """The line of an answer from what stands in it."""
    return json.dumps({"id": name, "reply": reply, "scores": scores, "picture": picture}) + "\n"


def picture_of(examples: Examples, place: int) -> str:
    """What names the pictures of a question by their contents; of none, nothing."""
    keys = examples.image_keys(place)
    return hashlib.sha256(b"".join(keys)).hexdigest()[:16] if keys else ""


def rows_of(lines: Sequence[bytes], examples: Examples) -> list[Prediction]:
    """The answers of lines that are whole, up to the first that is of no such question. Raises `DataError` for a line that is none of ours."""
    found: list[Prediction] = []
    for place, line in enumerate(lines[: len(examples)]):
        if not line.endswith(b"\n"):
            break
        try:
            row = json.loads(line)
            if (row["id"], row["picture"]) != (examples.split.sample_ids[place], picture_of(examples, place)):
                break
            found.append(row_of(row, examples, place))
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"line {place + 1} of answers to {row_name(examples, place)} cannot be read ({error}); take the file away.") from None
    return found


def row_name(examples: Examples, place: int) -> str:
    return f"question {examples.split.sample_ids[place]}"


def row_of(row: dict[str, Any], examples: Examples, place: int) -> Prediction:
    """The prediction that a line was written from."""
    sample, example = examples.split.index(place), examples[place]
    tokens = examples.encoder.size(example).tokens
    said = said_of(row["reply"], row["scores"], sample)
    shared = (sample.sample_id, sample.image_set, sample.question_group, sample.subset)
    return Prediction(*shared, sample.answer, said, tuple(example.text.image_order), tokens)


def said_of(reply: str, scores: dict[str, Any], sample: Sample) -> Said:
    """What a line says; a written answer without the rule by which it is read."""
    if isinstance(sample.answer, Choice):
        return Scored.of([scores[option] for option in sample.answer.options])
    return Written(reply, "none", **{name: scores[name] for name in OF_WORDS})
