"""A user's own file of questions: every format alike, splits by pixels, and a sentence for every broken file."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lab import data
from lab.config import DataDial, OnBad, identity
from lab.data import check, images
from lab.data.question_file.parts import SHARES, draw
from lab.data.sets import questions
from lab.errors import LabError
from lab.records import Choice, Text

COLOURS = ("red", "green", "blue", "olive")
Rows = list[dict]


def drawn(folder: Path, number: int = 20) -> Rows:
    """Pictures of one colour and a size of their own, and three questions about each."""
    rows = []
    for i in range(number):
        colour = COLOURS[i % len(COLOURS)]
        Image.new("RGB", (24 + i, 24), colour).save(folder / f"{i}.png")
        asked = {"What colour is it?": colour, "Is it red?": "yes" if colour == "red" else "no", "How wide is it?": f"{i:03d}"}
        rows += [{"image": f"{i}.png", "question": question, "answer": answer} for question, answer in asked.items()]
    return rows


def write(path: Path, rows: Rows) -> Path:
    """The rows in the format of the path's ending; in CSV and TSV a list is written as JSON."""
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="," if path.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows([{key: json.dumps(cell) if isinstance(cell, list) else cell for key, cell in row.items()} for row in rows])
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def dial(path: Path | str, **keys) -> DataDial:
    return DataDial(name="questions", path=str(path), **keys)


def load(path: Path, **keys):
    return data.load(dial(path, **keys), path.parent / "cache")


def samples(splits, part: str) -> list:
    split = getattr(splits, part)
    return [split.index(i) for i in range(len(split))]


def read(path: Path, **keys) -> dict[str, object]:
    """Every answer of the file by id, whatever its part."""
    found = questions.read(dial(path, **keys), path.parent / "cache")
    assert not found.faults
    return {sample.sample_id: sample.answer for part in found.parts.values() for sample in part}


@pytest.mark.parametrize("ending", [".tsv", ".json", ".jsonl", ".parquet"])
def test_every_format_gives_what_csv_gives(ending: str, tmp_path) -> None:
    rows = [{"id": str(at), "answers": [row.pop("answer"), "or so"], **row} for at, row in enumerate(drawn(tmp_path, 8))]
    one, other = load(write(tmp_path / f"q{ending}", rows)), load(write(tmp_path / "q.csv", rows))
    for part in ("train", "minival", "dev"):
        assert samples(one, part) == samples(other, part) and samples(one, part)


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".json"])
def test_a_cell_is_read_alone_whatever_stands_in_other_rows(ending: str, tmp_path) -> None:
    """Numbers stay as they are written, a late word among numbers and a list among texts change no other row."""
    drawn(tmp_path, 1)
    given = [*["007", "1.0"], *["3"] * 500, "3b", ["4", "four"]]
    if ending != ".csv":
        given[1:3] = [1.0, 3]
    row = {"image": "0.png", "question": "Which?"}
    rows = [row | {"id": str(at), "answers" if ending == ".csv" else "answer": answer} for at, answer in enumerate(given)]
    for order in (rows, rows[::-1]):
        answers = read(write(tmp_path / f"q{ending}", order))
        wanted = [("007",), ("1.0",), *[("3",)] * 500, ("3b",), ("4", "four")]
        assert answers == {str(at): Text(references) for at, references in enumerate(wanted)}


def test_a_byte_order_mark_changes_nothing(tmp_path) -> None:
    rows = drawn(tmp_path, 2)
    for ending in (".csv", ".tsv", ".json", ".jsonl"):
        plain = write(tmp_path / f"q{ending}", rows)
        answers = read(plain)
        plain.write_bytes(b"\xef\xbb\xbf" + plain.read_bytes())
        assert read(plain) == answers and len(answers) == 6


def test_a_drawn_split_keeps_a_picture_in_one_part_by_its_pixels(tmp_path) -> None:
    rows = drawn(tmp_path)
    Image.open(tmp_path / "3.png").save(tmp_path / "copy.bmp")
    path = write(tmp_path / "q.csv", [*rows, {"image": "copy.bmp", "question": "Is it the copy?", "answer": "yes"}])
    for seed in (0, 1, 2):
        splits = load(path, seed=seed)
        places = {sample.image_set: part for part in ("train", "minival", "dev") for sample in samples(splits, part)}
        assert all(2 <= Counter(places.values())[part] <= 3 for part in ("minival", "dev"))
        assert sum(len({s.image_set for s in samples(splits, part)}) for part in ("train", "minival", "dev")) == len(places) == 20
        assert "no split is given" in splits.notes[-1] and "written freely" in splits.notes[0]
    assert {p.source for s in samples(splits, "train") for p in s.images} != {p.source for s in samples(load(path), "train") for p in s.images}


def test_groups_stay_together_and_are_what_intervals_resample(tmp_path) -> None:
    rows = [row | {"group": f"g{at // 6}", "subset": row["question"]} for at, row in enumerate(drawn(tmp_path))]
    splits = load(write(tmp_path / "q.csv", rows))
    groups = {part: {sample.image_set for sample in samples(splits, part)} for part in ("train", "minival", "dev")}
    assert sum(map(len, groups.values())) == len(set.union(*groups.values())) == 10
    assert samples(splits, "dev")[0].subset in ("What colour is it?", "Is it red?", "How wide is it?")


@pytest.mark.parametrize(("sizes", "wanted"), [([1, 1, 58], 3), ([9, 1], 2), ([3], 1), ([5] * 10, 3)])
def test_every_part_gets_a_picture_while_there_are_as_many(sizes: list[int], wanted: int) -> None:
    clusters = [f"c{at}" for at, size in enumerate(sizes) for _ in range(size)]
    for seed in range(5):
        parts = draw(clusters, seed, SHARES)
        assert len(set(parts.values())) == wanted and (wanted < 2 or {"dev", "train"} <= set(parts.values()))


def test_a_given_split_with_shared_pixels_is_refused_unless_allowed(tmp_path) -> None:
    rows = [row | {"split": "test" if at >= 48 else "train"} for at, row in enumerate(drawn(tmp_path))]
    Image.open(tmp_path / "0.png").save(tmp_path / "b.bmp")
    path = write(tmp_path / "q.csv", [*rows, {"image": "b.bmp", "question": "Is it b?", "answer": "yes", "split": "test"}])
    with pytest.raises(LabError, match=r"several parts, by their pixels: 1, the first in .*q.csv:2 \(.*q.csv:62 \(dev\).*allow_shared_images=true"):
        load(path)
    splits = load(path, allow_shared_images=True)
    assert len(splits.dev) == 13 and len(splits.minival) in (3, 6) and any("Allowed" in note for note in splits.notes)


def test_kinds_of_answers_and_how_to_say_otherwise(tmp_path) -> None:
    rows = [row for row in drawn(tmp_path) if row["question"] == "Is it red?"]
    two = write(tmp_path / "two.csv", rows)
    assert set(read(two).values()) == {Choice(0, ("yes", "no")), Choice(1, ("yes", "no"))}
    assert load(two).answers.options == ("yes", "no") and "a choice between the two" in load(two).notes[0] and load(two).kind == "choice"
    assert set(read(two, kind="text").values()) == {Text(("yes",)), Text(("no",))} and load(two, kind="text").kind == "text"
    letters = write(tmp_path / "letters.csv", [row | {"choices": "yes|no|perhaps", "answer": "AB"[row["answer"] == "no"]} for row in rows])
    assert set(read(letters).values()) == {Choice(0, ("yes", "no", "perhaps")), Choice(1, ("yes", "no", "perhaps"))}
    assert "answer_format=letter" in load(letters).notes[0]
    several = write(tmp_path / "several.jsonl", [row | {"answer": None, "answers": ["cat", "cat", "dog"]} for row in rows])
    assert set(read(several).values()) == {Text(("cat", "dog"), (2, 1))}


def test_an_answer_that_may_name_two_choices_is_refused(tmp_path) -> None:
    path = write(tmp_path / "q.csv", [row | {"choices": "2|3|4", "answer": "2"} for row in drawn(tmp_path, 4)])
    with pytest.raises(LabError, match="may mean text '2', index0 '4', index1 '3'.*data.answer_format=text or index0 or index1"):
        load(path)
    assert {answer.text for answer in read(path, answer_format="index1").values()} == {"3"}
    decided = [row | {"choices": "2|3|4", "answer": str(at % 3 + 2)} for at, row in enumerate(drawn(tmp_path, 4))]
    assert {answer.text for answer in read(write(tmp_path / "q.csv", decided)).values()} == {"2", "3", "4"}


def test_a_changed_file_is_another_run_and_never_read_as_the_one_before(tmp_path, composer) -> None:
    path = write(tmp_path / "q.csv", drawn(tmp_path, 4))
    compose = lambda: composer("data=questions", f"data.path={path}")  # noqa: E731
    before = compose()
    assert before.data.sha256 and identity(before) == identity(compose())
    assert len(data.load(before.data, tmp_path / "cache").train) == 6
    path.write_bytes(path.read_bytes().replace(b"olive", b"green"))
    assert identity(compose()) != identity(before)
    with pytest.raises(LabError, match="the file has changed.*data.sha256=null"):
        data.load(before.data, tmp_path / "cache")


def test_names_of_ones_own_several_pictures_and_another_folder(tmp_path) -> None:
    (tmp_path / "pictures").mkdir()
    rows = drawn(tmp_path / "pictures", 4)
    german = [{"Bild": f"{row['image']}|0.png", "Frage": row["question"], "Antwort": row["answer"], "Datum": "heute"} for row in rows]
    path = write(tmp_path / "q.csv", german)
    columns = {"images": "Bild", "question": "Frage", "answer": "Antwort"}
    found = questions.read(dial(path, root=str(tmp_path / "pictures"), columns=columns), tmp_path / "cache")
    assert not found.faults and "questions: columns that are not read: Datum." in found.notes
    assert {len(sample.images) for part in found.parts.values() for sample in part} == {2}
    for wrong, sentence in (({"questoin": "Frage"}, "legal are .*Did you mean"), ({"question": "Fage"}, "no such column")):
        with pytest.raises(LabError, match=f"data.columns.{next(iter(wrong))}.*{sentence}"):
            load(path, columns=wrong)


@pytest.mark.parametrize("how", ["folder", "splits", "parquet", "list"])
def test_tables_with_pictures_inside(how: str, tmp_path) -> None:
    import datasets

    rows = [row | {"image": {"bytes": (tmp_path / row["image"]).read_bytes(), "path": None}} for row in drawn(tmp_path, 8)]
    if how == "list":
        rows = [{"images": [row.pop("image")] * 2, **row} for row in rows]
    feature = datasets.Image() if how != "list" else datasets.List(datasets.Image())
    column = "image" if how != "list" else "images"
    table = datasets.Dataset.from_list(rows).cast_column(column, feature)
    table = table.cast_column("answer", datasets.ClassLabel(names=sorted({row["answer"] for row in rows})))
    path = tmp_path / "saved"
    if how == "parquet":
        path = tmp_path / "q.parquet"
        table.to_parquet(path)
    elif how == "splits":
        datasets.DatasetDict({"train": table.select(range(18)), "test": table.select(range(18, 24))}).save_to_disk(str(path))
    else:
        table.save_to_disk(str(path))
    splits = load(path)
    everything = [sample for part in ("train", "minival", "dev") for sample in samples(splits, part)]
    assert len(everything) == 24 and {sample.answer.text for sample in everything} == {row["answer"] for row in rows}
    assert how != "splits" or len(splits.dev) == 6
    with pytest.raises(LabError, match="data.root=.*holds its pictures itself"):
        load(path, root=str(tmp_path))
    first = splits.dev[0]
    assert len(first.images) == (2 if how == "list" else 1) and all(isinstance(one.data, bytes) for one in first.images)
    assert all(images.decode(one).size == one.size for one in first.images)


def first(**cells):
    """The first row with some cells as given."""
    return lambda rows: [rows[0] | cells, *rows[1:]]


def each(cells):
    """Every row with cells that depend on its place."""
    return lambda rows: [row | cells(at) for at, row in enumerate(rows)]


ROWS = {
    "no column of pictures": (lambda rows: [{**row, "image": None, "picture": row["image"]} for row in rows], "'image'.*it is empty"),
    "no column of answers": (lambda rows: [{"image": row["image"], "question": "?"} for row in rows], "no column 'answer' or 'answers'"),
    "a missing picture": (first(image="gone.png"), "q.csv:2: key 'image': .*gone.png: the file is missing"),
    "a damaged picture": (first(image="torn.png"), "q.csv:2: key 'image': .*torn.png: the image cannot be decoded"),
    "a path that leaves": (first(image="../x.png"), "q.csv:2: path '../x.png' is given; it must lie inside"),
    "an empty question": (first(question=" "), "q.csv:2: key 'question': it is empty"),
    "an empty answer": (first(answer=""), "q.csv:2: key 'answer': it is empty"),
    "an id twice": (each(lambda at: {"id": at % 59}), "q.csv:61: key 'id': '0' is given a second time; first in .*q.csv:2"),
    "an unknown split": (each(lambda at: {"split": "training set"}), "q.csv:2: key 'split': 'training set' is given; legal: train, "),
    "a split here and there": (each(lambda at: {"split": "train" if at else ""}), "q.csv:2: its split is empty"),
    "pixels in two parts": (each(lambda at: {"split": ("train", "dev")[at % 2]}), "several parts, by their pixels: 20, the first in"),
    "choices without the answer": (each(lambda at: {"choices": "a|b", "answer": "abc"[at % 2 if at else 2]}), "q.csv:2: key 'answer': 'c' names"),
    "choices here and there": (each(lambda at: {"choices": "a|b" if at else "", "answer": "ab"[at % 2]}), "q.csv:2: key 'choices': it is empty, and"),
}
CONTENT = {
    "another encoding": (b"What colour", b"Qu\xe9 color", "q.csv:2: it is not UTF-8 .*0xe9.*Save the file as UTF-8"),
    "a ragged row": (b"0.png,What", b"0.png,,What", r"q.csv:2: 4 fields are given; the header has 3 \(image, question, answer\)"),
    "a stray quote": (b"0.png,What", b'0.png,"What', "q.csv:2: no row of a .csv file begins here.*quote that is not closed"),
    "rows glued by a quote": (b"red\r\n0.png,Is it red?,", b'"red\r\n0.png,Is it red?"\r\n', "q.csv:2: key 'answer' holds lines 2 to 3 and a ','"),
    "semicolons": (b"image,question,answer", b"image;question;answer", "q.csv:1: .csv is divided by ',', and this file by ';'"),
}


@pytest.mark.parametrize("name", [*ROWS, *CONTENT])
def test_broken_files_each_get_a_sentence(name: str, tmp_path, capsys) -> None:
    rows = drawn(tmp_path)
    (tmp_path / "torn.png").write_bytes((tmp_path / "0.png").read_bytes()[:60])
    change, sentence = ROWS.get(name, (list, ""))
    path = write(tmp_path / "q.csv", change(rows))
    if name in CONTENT:
        old, new, sentence = CONTENT[name]
        assert old in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(LabError, match=sentence) as error:
        load(path)
    assert len(str(error.value)) < 1500
    try:
        assert check.check(dial(path), tmp_path / "cache") == 1
    except LabError as told_at_once:
        assert str(told_at_once) == str(error.value)
    else:
        assert "problem: " in capsys.readouterr().out


def test_the_check_says_what_is_there_and_whether_it_can_train(tmp_path, capsys, monkeypatch) -> None:
    path = write(tmp_path / "q.csv", drawn(tmp_path))

    def ran(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["check", str(path), "--cache-dir", str(tmp_path / "cache"), *arguments])
        code = check.main()
        return code, "".join(capsys.readouterr())

    code, printed = ran()
    assert code == 0 and "it can train.\n" in printed
    for words in ("60 good questions (text: 60) about 20 pictures", "minival", "distinct answers: 26: 'no' 15", "always 'no'", "commonest answer"):
        assert words in printed
    write(path, [row | {"image": "gone.png"} if at < 3 else row for at, row in enumerate(drawn(tmp_path))])
    code, printed = ran()
    assert code == 1 and printed.count("problem: ") == 3 and f"{path}:2: key 'image'" in printed and "data.on_bad=skip" in printed
    assert ran("data.on_bad=skip")[0] == 0 and len(load(path, on_bad=OnBad.skip).skipped) == 3
    for wrong, sentence in (("data.kind=choice", "legal values are text"), ("data.colums=3", "colums")):
        code, printed = ran(wrong)
        assert code == 2 and sentence in printed and "Traceback" not in printed

