"""Benchmarks of three rows each in every column and type of the published files, with their traps, in both layouts; pictures are drawn."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from lab.benchmark_specs import SPECS

IMAGE = "<image>"
"""Stands for an encoded picture, another one in each place."""


def png(shade: int) -> bytes:
    """A picture of one colour."""
    out = io.BytesIO()
    Image.new("RGB", (64, 48), (shade % 256, 40, 90)).save(out, "PNG")
    return out.getvalue()


MMMU = {f"image_{k}": None for k in range(1, 8)} | {"explanation": "", "img_type": "['Tables']", "topic_difficulty": "Easy", "subfield": "x"}
SEED = {"choice_a": "one", "choice_b": "two", "choice_c": "three", "choice_d": "None", "question": "How many boxes?", "question_type_id": 5}
SCIENCE = {"image": IMAGE, "hint": "", "subject": "natural science", "topic": "physics"}
MATH = {
    "decoded_image": IMAGE, "unit": None, "metadata": {"task": "t", "skills": ["s"]}, "query": "Hint: ...\nQuestion: Which?", "question": "Which?",
    "question_type": "free_form", "choices": None,
}  # fmt: skip
DIRECTLY = "Please answer directly with a single word or number."
PARQUET: dict[str, dict[str, list[dict[str, Any]]]] = {
    "gqa": {
        "testdev_balanced_instructions/testdev-00000-of-00001": [
            {"id": "200", "imageId": "n0", "question": "Is the box red?", "answer": "yes", "types": {"structural": "verify", "semantic": "attr"}},
            {"id": "201", "imageId": "n0", "question": "What colour is it?", "answer": "red", "types": {"structural": "query", "semantic": "attr"}},
            {"id": "202", "imageId": "n1", "question": "Is it a t-shirt?", "answer": "no", "types": {"structural": "verify", "semantic": "attr"}},
        ],
        "testdev_balanced_images/testdev-00000-of-00001": [{"id": "n0", "image": IMAGE}, {"id": "n1", "image": IMAGE}, {"id": "n2", "image": IMAGE}],
    },
    "scienceqa": {
        "ScienceQA-IMG/test-00000-of-00001": [
            {**SCIENCE, "question": "Which is harder?", "choices": ["wool", "glass"], "answer": 1},
            {**SCIENCE, "question": "Which is a solid?", "choices": ["water", "air", "brick"], "answer": 2, "hint": "Look at the picture."},
            {**SCIENCE, "question": "Which is a noun?", "choices": ["run", "dog", "red", "ran", "blue"], "answer": 1, "image": None},
        ]
    },
    "textvqa": {
        "data/validation-00000-of-00001": [
            {"image_id": "im0", "question_id": 34602, "question": "what does it say?", "image": IMAGE, "answers": ["stop"] * 8 + ["STOP!", "halt"]},
            {"image_id": "im0", "question_id": 34603, "question": "what number?", "image": IMAGE, "answers": ["2"] * 3 + ["two"] * 7},
            {"image_id": "im2", "question_id": 34604, "question": "who wrote it?", "image": IMAGE, "answers": ["unanswerable"] * 10},
        ]
    },
    "mmmu": {
        "data/validation-00000-of-00001": [
            {**MMMU, "id": "validation_Accounting_1", "question": "Look at <image 1>. Which?", "options": "['$6', '$7, or more', '$8', '$9']",
             "image_1": IMAGE, "answer": "B", "question_type": "multiple-choice"},
            {**MMMU, "id": "validation_Art_2", "question": "<image 1> Which one?", "options": "['<image 1>', '<image 2>']", "image_1": IMAGE,
             "image_2": IMAGE, "answer": "A", "question_type": "multiple-choice"},
            {**MMMU, "id": "validation_Math_3", "question": "How many? <image 1>", "options": "[]", "image_1": IMAGE, "answer": "3.5",
             "question_type": "open"},
        ]
    },
    "seed": {
        "data/test-00000-of-00001": [
            {**SEED, "answer": "A", "data_id": "d0", "data_type": "image", "question_id": "100", "image": [IMAGE], "segment": None},
            {**SEED, "answer": "D", "data_id": "d1", "data_type": "image", "question_id": "101", "image": [IMAGE], "segment": None},
            {**SEED, "answer": "B", "data_id": "d2", "data_type": "video", "question_id": "102", "image": [IMAGE] * 3, "segment": [0, 2]},
        ]
    },
    "mathvista": {
        "data/testmini-00000-of-00001": [
            {**MATH, "pid": "1", "image": "images/1.jpg", "precision": 0.0, "answer": "0", "answer_type": "integer"},
            {**MATH, "pid": "2", "image": "images/2.jpg", "precision": 1.0, "answer": "1.2", "answer_type": "float"},
            {**MATH, "pid": "3", "image": "images/3.jpg", "choices": ["Yes", "No"], "precision": None, "answer": "No", "answer_type": "text",
             "question_type": "multi_choice"},
        ]
    },
    "ai2d": {
        "data/test-00000-of-00001": [
            {"question": "Which letter?", "options": ["A", "B", "C", "D"], "answer": "2", "image": IMAGE},
            {"question": "What eats grass?", "options": ["fox", "rabbit", "owl", "None"], "answer": "1", "image": IMAGE},
            {"question": "How many?", "options": ["1", "2", "3", "4"], "answer": "0", "image": IMAGE},
        ]
    },
    "chartqa": {
        "data/test-00000-of-00001": [
            {"type": "human_test", "question": "What is the share?", "answer": "5%", "image": IMAGE},
            {"type": "augmented_test", "question": "Which year?", "answer": "2019", "image": IMAGE},
            {"type": "human_test", "question": "Is it red?", "answer": "Yes", "image": IMAGE},
        ]
    },
    "docvqa": {
        "DocVQA/validation-00000-of-00001": [
            {"questionId": str(k), "question": ask, "question_types": ["form"], "image": IMAGE, "docId": 1, "ucsf_document_id": "abcd0001",
             "ucsf_document_page_no": "1", "answers": answers, "data_split": "val"}
            for k, (ask, answers) in enumerate([("What date?", ["1/8/93"]), ("Who?", ["J. Doe", "Doe"]), ("How much?", ["$ 1,000"])])
        ]
    },
    "mmstar": {
        "mmstar": [
            {"index": k, "question": "What is shown?\nOptions: A: box, B: circle, C: line, D: None", "image": IMAGE, "answer": answer,
             "category": category, "l2_category": level, "meta_info": {"source": "own", "split": "val"}}
            for k, (answer, category, level) in enumerate([("A", "coarse", "scene"), ("B", "math", "geometry"), ("D", "math", "geometry")])
        ]
    },
    "realworldqa": {
        "data/test-00000-of-00001": [
            {"image": IMAGE, "answer": "A", "question": "Which is bigger?\nA. box\nB. circle\nPlease answer directly with only the letter of "
             "the correct option and nothing else."},
            {"image": IMAGE, "question": f"How many boxes?\n{DIRECTLY}", "answer": "2"},
            {"image": IMAGE, "question": f"Is it red? {DIRECTLY}", "answer": "Yes"},
        ]
    },
    "ocrbench": {
        "data/test-00000-of-00001": [
            {"dataset": "IIIT5K", "question": "what is written?", "question_type": "Regular Text Recognition", "answer": ["CENTRE"], "image": IMAGE},
            {"dataset": "HME100k", "question": "formula?", "image": IMAGE, "answer": ["x ^ { 2 }"],
             "question_type": "Handwritten Mathematical Expression Recognition"},
            {"dataset": "docVQA", "question": "date?", "question_type": "Doc-oriented VQA", "answer": ["1/8/93", "8 Jan"], "image": IMAGE},
        ]
    },
    "pope": {
        "data/test-00000-of-00001": [
            {"id": str(k), "question": f"Is there a {thing}?", "answer": answer, "image_source": source, "image": IMAGE, "category": track}
            for k, (thing, answer, source, track) in enumerate(
                [("box", "yes", "c0", "random"), ("cat", "no", "c0", "random"), ("box", "yes", "c0", "popular"), ("dog", "no", "c1", "adversarial")]
            )
        ]
    },
}  # fmt: skip
MCQ = ("index", "image", "question", "hint", "A", "B", "C", "D", "answer", "category", "l2-category", "split")
MCQ_ROWS = (
    (0, "b64:0", "What is shown?", "", "box", "circle", "line", "None", "A", "coarse perception", "scene", "test"),
    (1, "0", "How many?", "Count.", "1", "2", "", "", "B", "math", "count", "test"),
    (2, "b64:2", "Which?", "", "N/A", "null", "x", "y", "A", "math", "count", "test"),
)
VQA = ("index", "image", "question", "answer", "split")
VQA_ROWS = (
    (0, "b64:0", "what does it say?", "['stop', 'stop', 'halt']", "human"), (1, "0", "What is the share?", "['5%']", "augmented"),
    (2, "b64:2", "Is it red?", "yes", "human"),
)  # fmt: skip
TSV: dict[str, tuple[str, Sequence[str], Sequence[Sequence[Any]]]] = {
    **{name: (file, MCQ, MCQ_ROWS) for name, file in (
        ("seed", "SEEDBench_IMG"), ("ai2d", "AI2D_TEST"), ("mmstar", "MMStar"), ("realworldqa", "RealWorldQA"), ("scienceqa", "ScienceQA_TEST"),
    )},
    **{name: (file, VQA, VQA_ROWS) for name, file in (
        ("gqa", "GQA_TestDev_Balanced"), ("textvqa", "TextVQA_VAL"), ("docvqa", "DocVQA_VAL"), ("chartqa", "ChartQA_TEST"),
    )},
    "mmmu": (
        "MMMU_DEV_VAL", ("index", "id", "question", "A", "B", "C", "answer", "question_type", "image", "category", "l2-category", "split"),
        ((1, "validation_Art_1", "<image 1> Which?", "<image 1>", "<image 2>", "", "A", "multiple-choice", "list:0,1", "Art", "Art & Design",
          "validation"),
         (2, "validation_Math_1", "How many? <image 1>", "", "", "", "3.5", "open", "b64:1", "Math", "Science", "validation"),
         (3, "dev_Art_1", "<image 1> Why?", "p", "q", "r", "C", "multiple-choice", "b64:2", "Art", "Art & Design", "dev")),
    ),
    "ocrbench": (
        "OCRBench", ("index", "image", "question", "answer", "category"),
        ((0, "b64:0", "what is written?", "['CENTRE']", "Regular Text Recognition"),
         (1, "b64:1", "formula?", "['x ^ { 2 }']", "Handwritten Mathematical Expression Recognition"),
         (2, "b64:2", "date?", "['1/8/93', '8 Jan']", "Doc-oriented VQA")),
    ),
    "mathvista": (
        "MathVista_MINI", ("index", "image", "question", "choices", "answer", "answer_option", "question_type", "answer_type", "task", "skills"),
        ((1, "b64:0", "How many?", "[]", "0", "", "free_form", "integer", "t", "['s']"),
         (2, "b64:1", "How long?", "[]", "1.2", "", "free_form", "float", "t", "['s']"),
         (3, "b64:2", "Which?", "['Yes', 'No']", "No", "B", "multi_choice", "text", "t", "['s']")),
    ),
    "pope": (
        "POPE", ("index", "image", "question", "answer", "category"),
        ((0, "b64:0", "Is there a box?", "Yes", "random,popular"), (1, "0", "Is there a cat?", "No", "random"),
         (2, "b64:1", "Is there a dog?", "No", "adversarial")),
    ),
}  # fmt: skip


def parquet(folder: Path, name: str, metadata: bool = True, rows: dict[str, list[dict[str, Any]]] | None = None) -> Path:
    """Write a snapshot. metadata: the schema says to `datasets` which columns are pictures."""
    for file, several in (rows or PARQUET[name]).items():
        path = folder / f"{file}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pa.table({column: pictured([row[column] for row in several]) for column in several[0]})
        if metadata:
            features = {column: {"_type": "Image"} if pa.types.is_struct(table.schema.field(column).type) else {} for column in table.column_names}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, path, row_group_size=2)
    return folder


def pictured(cells: list[Any]) -> pa.Array:
    """A column with pictures in the place of their marks."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    if any(isinstance(cell, list) and IMAGE in cell for cell in cells):
        return pa.array([[{"bytes": png(9 * k + j), "path": "a.png"} for j in range(len(cell))] for k, cell in enumerate(cells)], pa.list_(kind))
    if IMAGE in [cell for cell in cells if isinstance(cell, str)]:
        return pa.array([None if cell is None else {"bytes": png(30 * k), "path": None} for k, cell in enumerate(cells)], kind)
    return pa.array(cells, kind) if all(cell is None for cell in cells) else pa.array(cells)


def tsv(folder: Path, name: str, table: tuple[str, Sequence[str], Sequence[Sequence[Any]]] | None = None) -> Path:
    """Write VLMEvalKit's file."""
    file, header, rows = table or TSV[name]
    lines = ["\t".join(header), *("\t".join(map(cell, row)) for row in rows)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{file}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def cell(value: Any) -> str:
    """A cell; `b64:k` is a picture, `list:j,k` several."""
    kind, _, places = str(value).partition(":")
    if kind not in ("b64", "list"):
        return str(value)
    texts = [base64.b64encode(png(30 * int(place))).decode() for place in places.split(",")]
    return texts[0] if kind == "b64" else str(texts)


def seeded(folder: Path, name: str, number: int, seed: int = 0) -> Path:
    """Write a snapshot of so many rows: those of `PARQUET` in a drawn order, each with an id of its own and words that differ."""
    draw = random.Random(f"{name}/{seed}")
    files = {}
    for file, rows in PARQUET[name].items():
        files[file] = rows if file.endswith("_images/testdev-00000-of-00001") else [own(draw.choice(rows), name, k) for k in range(number)]
    return parquet(folder / name, name, rows=files)


def own(row: dict[str, Any], name: str, k: int) -> dict[str, Any]:
    """A row under an id of its own."""
    column = SPECS[name].id
    if not column:
        return row
    given = f"{str(row[column]).rpartition('_')[0]}_{k}" if name == "mmmu" else k if isinstance(row[column], int) else str(k)
    return {**row, column: given}
