"""How boxes are written in an answer, family by family: to numbers of a text, and back. `lab.answers.regions` reads and writes with them.

qwen2       <|object_ref_start|>LABEL<|object_ref_end|><|box_start|>(X0,Y0),(X1,Y1)<|box_end|>, thousandths (Wang et al. 2024, 2409.12191)
qwen2_5     [{"bbox_2d": [X0, Y0, X1, Y1], "label": LABEL}], fenced, in pixels of the resized picture (Bai et al. 2025, 2502.13923)
qwen3       the same in thousandths
paligemma   <locY0><locX0><locY1><locX1> LABEL ; ..., in 1,024 bins (Beyer et al. 2024, 2407.07726)
click       <click>X,Y</click> LABEL, a line each: the centre in pixels of the picture; no box
json        [["LABEL", X0, Y0, X1, Y1]], in thousandths: this laboratory's own, of letters that every tokenizer knows
florence2   LABEL<loc_X0><loc_Y0><loc_X1><loc_Y1>, 1,000 bins, the middle of a bin cut to a whole pixel (as Transformers reads it)
kosmos2     <phrase>LABEL</phrase><object><patch_index_FIRST><patch_index_LAST></object>, 32 x 32 patches (as Transformers reads it)

Numbers are whole in what is written and may be any in what is read. Models cut, repeat and mistype; what is no box is counted as lost.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

NONE = "none"
"""What is written where there is no box, by formats that are no list."""
LARGEST = 1e9
"""Beyond it a number is no coordinate."""
NUMBER = r"(-?\d+(?:\.\d+)?)"
POINT = rf"\(\s*{NUMBER}\s*,\s*{NUMBER}\s*\)"
INSIDE = r"((?:(?!<\|object_ref_).)*)"
QWEN2 = re.compile(
    rf"(?:<\|object_ref_start\|>{INSIDE}<\|object_ref_end\|>\s*)?(?:<\|box_start\|>\s*)?{POINT}\s*,\s*{POINT}(?:\s*<\|box_end\|>)?", re.DOTALL
)
QWEN2_HALF = re.compile(r"\(\s*-?\d|<\|(?:object_ref|box)_start\|>")
MARKER = re.compile(r"<\|[^|<>]*\|>|</?s>|<eos>|<bos>|<pad>")
CLICK = re.compile(rf"<click>\s*{NUMBER}\s*,\s*{NUMBER}\s*</click>[ \t]*([^<\n]*)")
DOUBLE, SINGLE = r'"(?:[^"\\]|\\.)*"', r"'(?:[^'\\]|\\.)*'"
OBJECT = re.compile(rf"\{{(?:[^{{}}\"']|{DOUBLE}|{SINGLE})*\}}", re.DOTALL)
OWN = re.compile(rf"\[\s*({DOUBLE})\s*,\s*{NUMBER}\s*,\s*{NUMBER}\s*,\s*{NUMBER}\s*,\s*{NUMBER}\s*,?\s*\]", re.DOTALL)
EMPTY_LIST = re.compile(r"\[\s*\]")
THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
LOC, FLORENCE2_LOC = re.compile(r"<loc(\d+)>"), re.compile(r"<loc_(\d+)>")
BEHIND = re.compile(r"[^<;]*")
PATCHES = re.compile(r"(?:<phrase>([^<]*)</phrase>\s*)?<object>(.*?)(?:</object>|\Z)", re.DOTALL)
SIDE = 32
"""Patches of Kosmos-2 along a side."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One box of a text: its label, the numbers x0, y0, x1, y1 (of a click x, y) as they stand there, and where it stands."""

    label: str
    numbers: tuple[float, ...]
    span: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Scan:
    """What a text holds. lost: there are boxes that are none, or a cut. none: it says that there is none."""

    marks: list[Mark] = field(default_factory=list)
    lost: bool = False
    none: bool = False


def says_none(text: str) -> bool:
    """Whether a text, without the ends of turns in it, is `NONE`."""
    return MARKER.sub("", text).strip(" \t\n.").lower() == NONE


def without(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """A text without some stretches of it, a blank in the place of each."""
    pieces, end = [], 0
    for start, stop in spans:
        pieces.append(text[end:start])
        end = stop
    return " ".join([*pieces, text[end:]])


def scan_qwen2(text: str) -> Scan:
    """Boxes with or without their tokens, which decoding may have taken away. A box without a label has that of the box before."""
    marks: list[Mark] = []
    cores, end, label = [], 0, ""
    for box in QWEN2.finditer(text):
        start, before = box.start(), text[end : box.start()]
        words = MARKER.sub(" ", before).strip().rpartition("\n")[2].strip(" \t,;:.-")
        if box[1] is not None:
            label = box[1].strip()
        elif words and words != "and":
            label, start = words, end + before.rfind(words)
        numbers = tuple(float(box[i]) for i in range(2, 6))
        cores.append(box.span())
        marks.append(Mark(label, numbers, (start, box.end())))
        end = box.end()
    return Scan(marks, bool(QWEN2_HALF.search(without(text, cores))), says_none(text))


def write_qwen2(boxes: Sequence[tuple[str, tuple[int, ...]]]) -> str:
    written = (
        f"<|object_ref_start|>{label}<|object_ref_end|><|box_start|>({x0},{y0}),({x1},{y1})<|box_end|>" for label, (x0, y0, x1, y1) in boxes
    )
    return "".join(written) or NONE


def scan_objects(text: str) -> Scan:
    """The innermost `{...}` of a text with a `bbox_2d` of four numbers; quotes of JSON or of Python. What stands in a thought is none."""
    text = THOUGHT.sub(lambda thought: " " * len(thought[0]), text)
    marks, spans, lost = [], [], False
    for found in OBJECT.finditer(text):
        spans.append(found.span())
        value = loaded(found[0])
        numbers = value.get("bbox_2d") if isinstance(value, dict) else None
        if isinstance(numbers, list | tuple) and len(numbers) == 4 and all(map(is_coordinate, numbers)):
            marks.append(Mark(str(value.get("label") or "").strip(), tuple(map(float, numbers)), found.span()))
        else:
            lost = True
    rest = without(text, spans)
    cut = any(rest.count(opening) > rest.count(closing) for opening, closing in ("{}", "[]"))
    return Scan(marks, lost or cut, bool(EMPTY_LIST.search(text)))


def loaded(text: str) -> Any:
    """A JSON object, or a dict as Python writes it; None where it is neither."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # what literal_eval and deep nesting raise
            continue
    return None


def is_coordinate(value: Any) -> bool:
    """Whether a value of JSON is a number that could be one."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST < value < LARGEST


def write_objects(boxes: Sequence[tuple[str, tuple[int, ...]]]) -> str:
    lines = [f"\t{json.dumps({'bbox_2d': list(numbers), 'label': label}, ensure_ascii=False)}" for label, numbers in boxes]
    body = ",\n".join(lines)
    return f"```json\n[\n{body}\n]\n```" if lines else "```json\n[]\n```"


def scan_own(text: str) -> Scan:
    """Lists of a label and four numbers."""
    marks = []
    for found in OWN.finditer(text):
        label = loaded(found[1])
        marks.append(Mark(str(label).strip(), tuple(float(found[i]) for i in range(2, 6)), found.span()))
    rest = without(text, (mark.span for mark in marks))
    lost = rest.count("[") > rest.count("]") or bool(re.search(r"\[\s*[\"']", rest))
    return Scan(marks, lost, bool(EMPTY_LIST.search(text)))


def write_own(boxes: Sequence[tuple[str, tuple[int, ...]]]) -> str:
    return json.dumps([[label, *numbers] for label, numbers in boxes], ensure_ascii=False)


def located(text: str, token: re.Pattern[str], label_first: bool) -> Iterator[tuple[str, list[re.Match[str]], tuple[int, int]]]:
    """Runs of location tokens: the label before or behind them, the tokens, and where both stand."""
    end = 0
    for run in re.finditer(rf"(?:{token.pattern}\s*)+", text):
        tokens = list(token.finditer(text, *run.span()))
        if label_first:
            label = text[end : run.start()].rpartition(">")[2]
            start, end = run.start() - len(label), run.end()
        else:
            behind = BEHIND.match(text, run.end())
            assert behind is not None
            label, start, end = behind[0], run.start(), behind.end()
        yield label.strip(), tokens, (start, end)


def scan_paligemma(text: str) -> Scan:
    """Four tokens of four digits, then a label."""
    marks, lost = [], False
    for label, tokens, span in located(text, LOC, label_first=False):
        digits = [token[1] for token in tokens]
        if len(digits) == 4 and all(len(each) == 4 and int(each) < 1024 for each in digits):
            y0, x0, y1, x1 = map(float, digits)
            marks.append(Mark(label, (x0, y0, x1, y1), span))
        else:
            lost = True
    return Scan(marks, lost or text.count("<loc") > len(LOC.findall(text)), says_none(text))


def write_paligemma(boxes: Sequence[tuple[str, tuple[int, ...]]]) -> str:
    return " ; ".join(f"<loc{y0:04}><loc{x0:04}><loc{y1:04}><loc{x1:04}> {label}" for label, (x0, y0, x1, y1) in boxes) or NONE


def scan_florence2(text: str) -> Scan:
    """A label, then four tokens for each of its boxes."""
    marks, lost = [], False
    for label, tokens, (start, _) in located(text, FLORENCE2_LOC, label_first=True):
        for place in range(0, len(tokens) - 3, 4):
            four = tokens[place : place + 4]
            span = (four[0].start() if place else start, four[-1].end())
            marks.append(Mark(label, tuple(float(token[1]) for token in four), span))
        lost = lost or len(tokens) % 4 > 0
    return Scan(marks, lost or text.count("<loc_") > len(FLORENCE2_LOC.findall(text)), says_none(text))


def scan_kosmos2(text: str) -> Scan:
    """Two patches, the first and the last, for each box of a phrase; numbers are x0, y0, x1, y1 as shares of the picture."""
    marks, lost = [], False
    for found in PATCHES.finditer(text):
        start, end = found.span()
        for one in found[2].split("</delimiter_of_multi_objects/>"):
            patches = [int(each) for each in re.findall(r"<patch_index_(\d{4})>", one)]
            if len(patches) == 2 and max(patches) < SIDE**2:
                marks.append(Mark((found[1] or "").strip(), of_patches(*patches), (start, end)))
            else:
                lost = True
    return Scan(marks, lost, says_none(text))


def of_patches(first: int, last: int) -> tuple[float, ...]:
    """From centre to centre of two patches; all of them where they share a row or a column."""
    (y0, x0), (y1, x1) = divmod(first, SIDE), divmod(last, SIDE)
    low, high = (0.0, 1.0) if x0 == x1 or y0 == y1 else (0.5, 0.5)
    return (x0 + low) / SIDE, (y0 + low) / SIDE, (x1 + high) / SIDE, (y1 + high) / SIDE


def scan_click(text: str) -> Scan:
    """Points, each with what stands behind it in its line."""
    marks, spans = [], []
    for found in CLICK.finditer(text):
        spans.append(found.span())
        marks.append(Mark(found[3].strip(), (float(found[1]), float(found[2])), found.span()))
    return Scan(marks, "<click" in without(text, spans), says_none(text))


def write_click(boxes: Sequence[tuple[str, tuple[int, ...]]]) -> str:
    return "\n".join(f"<click>{x},{y}</click> {label}" for label, (x, y) in boxes) or NONE


@dataclass(frozen=True)
class Format:
    """scan: a text. write: labels and whole numbers; None: it is only read. grid: what numbers count to, None: to the size of the
    picture as shown. most: the largest that can be written, by `grid`. resized: the picture that numbers are pixels of is the resized one.
    middle: a number stands for the middle of its bin, cut to a whole pixel.
    """

    scan: Callable[[str], Scan]
    write: Callable[[Sequence[tuple[str, tuple[int, ...]]]], str] | None
    grid: int | None
    most: int | None = None
    resized: bool = False
    points: bool = False
    middle: bool = False


FORMATS = {
    "qwen2": Format(scan_qwen2, write_qwen2, 1000),
    "qwen2_5": Format(scan_objects, write_objects, None, resized=True),
    "qwen3": Format(scan_objects, write_objects, 1000),
    "paligemma": Format(scan_paligemma, write_paligemma, 1024, most=1023),
    "click": Format(scan_click, write_click, None, points=True),
    "json": Format(scan_own, write_own, 1000),
    "florence2": Format(scan_florence2, None, 1000, middle=True),
    "kosmos2": Format(scan_kosmos2, None, 1),
}
WRITTEN = tuple(name for name, one in FORMATS.items() if one.write is not None)
"""Formats that can be trained."""
