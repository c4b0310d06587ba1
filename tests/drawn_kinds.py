"""Small files of every kind of answer, with pictures drawn on the spot."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = ("red", "green", "blue")


def part_of(place: int, number: int) -> str:
    """Half of the rows are train, a quarter minival, a quarter dev."""
    return "train" if 2 * place < number else "minival" if 4 * place < 3 * number else "dev"


def words(folder: Path, number: int = 16) -> Path:
    """What colour is a picture: answers in words."""
    return questions(folder, "words", [("what colour is it?", COLOURS[i % 3]) for i in range(number)])


def choices(folder: Path, number: int = 16) -> Path:
    """Whether a picture is red: two answers to choose from."""
    return questions(folder, "choices", [("is it red?", "no" if i % 3 else "yes") for i in range(number)])


def questions(folder: Path, name: str, asked: list[tuple[str, str]]) -> Path:
    (folder / name).mkdir(parents=True)
    rows = ["image,question,answer,split"]
    for i, (question, answer) in enumerate(asked):
        Image.new("RGB", (56, 56 + i), COLOURS[i % 3]).save(folder / name / f"{i}.png")
        rows.append(f"{name}/{i}.png,{question},{answer},{part_of(i, len(asked))}")
    (folder / f"{name}.csv").write_text("\n".join(rows) + "\n")
    return folder / f"{name}.csv"


def boxes(folder: Path, number: int = 12) -> Path:
    """Where the table is in a picture."""
    (folder / "boxes").mkdir(parents=True)
    lines = []
    for i in range(number):
        picture, box = Image.new("RGB", (84, 84 + i), "white"), [10 + i, 8, 40 + i, 60]
        ImageDraw.Draw(picture).rectangle(box, fill="navy")
        picture.save(folder / "boxes" / f"{i}.png")
        lines.append(json.dumps({"image": f"boxes/{i}.png", "boxes": [box], "labels": ["table"], "split": part_of(i, number)}))
    (folder / "boxes.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "boxes.jsonl"
