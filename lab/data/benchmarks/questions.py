"""A row of a benchmark as a question: what is asked, of which pictures, and what is right; or why it cannot be asked.

The TSV of VLMEvalKit has one form for all sets: index, image, question, hint, an option a capital letter, answer, category, l2-category, split.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from lab.benchmark_specs import OFFICIAL_SUBSETS, WORD, Spec
from lab.data.benchmarks.tables import Cells, Pictures, files_of, legal_split, listed, rows_of
from lab.errors import DataError
from lab.records import Choice, Picture, Sample, Skipped, Text, Turn
from lab.statistics.marking import Asked
from lab.statistics.marking.mark import LETTERS

PLACEHOLDER = re.compile(r"<image (\d+)>")
INSTRUCTED = ("Please answer directly", "Answer with the option", "Answer the question using", "Hint:")
"""What an instruction begins with that a row brings itself; no second is added."""
TSV_CATEGORIES = {"category": "category", "l2_category": "l2-category"}


class LeftOut(Exception):
    """Why a row is not asked."""


@dataclass(frozen=True)
class Question:
    """name: its id. text: with options and instruction, as it is asked. right: of a multiple choice the place of the gold among options.

    references: as the rule takes them. cluster: the picture. categories: values by the name of the category, for tables.
    """

    name: str
    text: str
    pictures: tuple[str, ...]
    references: tuple[str, ...]
    asked: Asked
    cluster: str
    categories: tuple[tuple[str, str], ...]
    right: int | None = None

    def sample(self, kind: str, interleaved: bool) -> Sample:
        """The question as it is asked of a model; of a multiple choice its options are the letters."""
        answer = Text(tuple(dict.fromkeys(self.references)), votes(self.references))
        if kind == Choice.kind and self.right is not None:
            answer = Choice(self.right, tuple(LETTERS[: len(self.asked.options)]))
        text = PLACEHOLDER.sub("", self.text).strip()
        turns, order = placed(self.text, self.pictures) if interleaved else ((), range(len(self.pictures)))
        images = tuple(Picture(self.pictures[place]) for place in order)
        subset = self.categories[0][1] if self.categories else None
        return Sample(self.name, text, images, answer, self.cluster, self.name, subset, turns)


def votes(references: Sequence[str]) -> tuple[int, ...]:
    """How many annotators gave each distinct reference, where any gave the same."""
    counts = Counter(references)
    return tuple(counts.values()) if len(counts) < len(references) else ()


def placed(text: str, pictures: Sequence[str]) -> tuple[tuple[Turn, ...], list[int]]:
    """The turn whose pictures stand where `<image k>` is, each mention one picture; in front where the text mentions none."""
    pieces = PLACEHOLDER.split(text)
    order = [int(number) - 1 for number in pieces[1::2]] or [place for place, source in enumerate(pictures) if source]
    parts: list[str | int] = list(range(len(order))) if len(pieces) == 1 else []
    for place, piece in enumerate(pieces):
        parts += [place // 2] if place % 2 else [piece] if piece else []
    return (Turn("user", tuple(parts)),), order


class Benchmark(NamedTuple):
    """What is asked of a benchmark. official: how many there are of it. source: subset, or name of the TSV, and split, as they were read."""

    questions: list[Question]
    left_out: list[Skipped]
    pictures: Pictures
    official: int
    source: str


def read(spec: Spec, name: str, root: str, subset: str | None = None, split: str | None = None) -> Benchmark:
    """Read a benchmark; no picture is decoded. Raises `ConfigError` or `DataError`."""
    given, pictures = legal_split(spec, split), Pictures()
    files = files_of(Path(root), spec, subset, given)
    tsv = files[0].suffix.lower() != ".parquet"
    questions: dict[str, Question] = {}
    left_out: list[Skipped] = []
    for place, cells in enumerate(rows_of(files, Path(root), spec, pictures)):
        if tsv and cells.values.get("split") in spec.splits and cells.values["split"] != given:
            continue
        identifier = str(cells.get("index" if tsv else spec.id) if tsv or spec.id else place)
        try:
            question = of_tsv(cells, identifier, spec, pictures) if tsv else of_parquet(cells, identifier, spec)
            if identifier in questions:
                question = another(question, questions[identifier])
            questions[question.name] = question
        except LeftOut as reason:
            left_out.append(Skipped(identifier, str(reason)))
    if not questions:
        first = f"; the first: {left_out[0].source}: {left_out[0].reason}" if left_out else ""
        raise DataError(f"data={name} data.root={root}: none of the {len(left_out)} rows of split {given} can be asked{first}.")
    folders = {folder: each for each, folder in spec.folders.items()}
    part = files[0].stem if tsv else folders.get(files[0].parent.name, subset or "")
    official = OFFICIAL_SUBSETS.get((name, part, given), spec.splits[given])
    return Benchmark([*questions.values()], left_out, pictures, official, f"{part} {given}".strip())


def another(question: Question, there: Question) -> Question:
    """A question whose id was given before: of another category it is told apart by it. Raises `LeftOut` where it is not."""
    if not question.categories or question.categories == there.categories:
        raise LeftOut("its id is given a second time")
    return replace(question, name=f"{question.categories[0][1]}-{question.name}")


def of_parquet(cells: Cells, name: str, spec: Spec) -> Question:
    """The question of a row of the hub's table. Raises `LeftOut`."""
    if cells.get("data_type") == "video":
        raise LeftOut("it is about a video")
    options = listed(cells.get(spec.options)) if " " not in spec.options else [str(cells.values.get(column) or "") for column in spec.options.split()]
    columns = [column for column in cells.pictures if column in spec.images] or list(cells.pictures)
    pictures = [source for column in columns for source in cells.pictures[column]]
    categories = [(category, value) for category, column in spec.categories.items() for value in listed(cells.get(column))]
    if spec.interleaved:
        categories = [("subject", re.sub(r"^[a-z]+_|_\d+$", "", name)), *categories]
    cluster = "/".join(str(cells.get(column)) for column in spec.cluster.split()) if spec.cluster else ""
    precision = cells.get(spec.precision) if spec.precision else None
    asked = Asked(tuple(options), str(cells.get(spec.answer_type) or "") if spec.answer_type else "", None if precision is None else int(precision))
    hint = str(cells.get(spec.hint) or "") if spec.hint else ""
    question = str(cells.get(spec.question) or "")
    return checked(name, question, hint, asked, listed(cells.get(spec.answer)), pictures, cluster, categories, spec)


def of_tsv(cells: Cells, name: str, spec: Spec, held: Pictures) -> Question:
    """The question of a row of VLMEvalKit's table. Raises `LeftOut`."""
    choices = listed(cells.get("choices"))
    options = choices or [str(option) for letter in LETTERS if (option := cells.get(letter)) is not None]
    categories = [(category, str(value)) for category, column in TSV_CATEGORIES.items() if (value := cells.get(column)) is not None]
    if not categories and cells.get("split") not in (None, *spec.splits):
        categories = [("type", str(cells.get("split")))]
    if "track" in spec.categories:
        categories = [("track", track.strip()) for _, value in categories for track in value.split(",")]
    pictures = cells.pictures["image"]
    if not held.damaged.isdisjoint(pictures):
        raise LeftOut("its picture is no base64")
    known = [hashlib.sha256(held.encoded.get(source, source).encode()).hexdigest()[:16] for source in pictures if source is not None]
    answers = listed(cells.get("answer"))
    asked = Asked(tuple(options), str(cells.get("answer_type|category") or "") if spec.answer_type else "", decimals(answers))
    written = replace(spec, gold="" if not options else "text" if choices else "letter")
    question, hint = str(cells.get("question") or ""), str(cells.get("hint") or "")
    return checked(name, question, hint, asked, answers, pictures, "/".join(known), categories, written)


def decimals(answers: Sequence[str]) -> int | None:
    """The decimal places of a gold number."""
    found = re.fullmatch(r"-?\d+(?:\.(\d+))?", answers[0]) if len(answers) == 1 else None
    return len(found[1] or "") if found else None


def checked(
    name: str, question: str, hint: str, asked: Asked, answers: list[str], pictures: list[str | None], cluster: str,
    categories: list[tuple[str, str]], spec: Spec,
) -> Question:  # fmt: skip
    """The question, where everything that it needs is there. Raises `LeftOut`."""
    if not question.strip():
        raise LeftOut("it asks nothing")
    inside = spec.gold == "letter" and not spec.options and not asked.options
    if inside:
        asked = replace(asked, options=options_in(question))
    options = asked.options
    if options and not all(option.strip() for option in options):
        raise LeftOut(f"option {LETTERS[[bool(each.strip()) for each in options].index(False)]} is empty")
    answers = [answer for answer in answers if answer.strip()]
    if not answers:
        raise LeftOut("its answer is empty")
    right = place_of(answers[0], options, spec.gold) if options and spec.gold else None
    if right is None and spec.kind == Choice.kind:
        raise LeftOut("it has no options")
    if right is not None:
        answers = [options[right] if spec.gold == "text" else LETTERS[right]]
    listed_options = "" if inside or spec.gold == "text" or not options else "".join(f"\n{LETTERS[k]}. {each}" for k, each in enumerate(options))
    instruction = "" if any(each in question for each in INSTRUCTED) else spec.prompt
    if spec.interleaved and not options:
        instruction = WORD
    text = "\n".join(filter(None, (hint, question.strip()))) + listed_options + instruction
    shown = shown_of(text, pictures, spec)
    return Question(name, text, shown, tuple(answers), asked, cluster or "/".join(shown) or name, tuple(categories), right)


def place_of(answer: str, options: Sequence[str], gold: str) -> int:
    """The place of the gold among the options. Raises `LeftOut` where it is none of them."""
    names = {"letter": [*LETTERS[: len(options)]], "index": [str(place) for place in range(len(options))], "text": list(options)}[gold]
    if answer.strip() not in names:
        raise LeftOut(f"its answer {answer!r:.60} is none of its {len(options)} options")
    return names.index(answer.strip())


def options_in(question: str) -> tuple[str, ...]:
    """The options that stand in the text of a question, behind `A:`, `A.` or `A)`; none where there are not two."""
    places: list[re.Match[str]] = []
    for letter in LETTERS:
        found = re.compile(rf"(?<!\w)\(?{letter}[:.)]\s").search(question, places[-1].end() if places else 0)
        if found is None:
            break
        places.append(found)
    if len(places) < 2:
        return ()
    ends = [*(found.start() for found in places[1:]), len(question)]
    texts = (question[found.end() : end].partition("\n")[0] for found, end in zip(places, ends, strict=True))
    return tuple(text.strip().rstrip(",;").strip() for text in texts)


def shown_of(text: str, pictures: Sequence[str | None], spec: Spec) -> tuple[str, ...]:
    """The pictures of a question. Raises `LeftOut` where one that it mentions, or its only one, is missing; ScienceQA's may have none."""
    if spec.interleaved:
        missing = [int(number) for number in PLACEHOLDER.findall(text) if not 0 < int(number) <= len(pictures) or pictures[int(number) - 1] is None]
        if missing:
            raise LeftOut(f"it mentions <image {missing[0]}>, which is missing")
        while pictures and pictures[-1] is None:
            pictures = pictures[:-1]
        return tuple(source or "" for source in pictures)
    there = tuple(source for source in pictures if source is not None)
    if len(there) < len(pictures) and not spec.hint or not pictures and not spec.hint:
        raise LeftOut("its picture is missing")
    return there
