"""A page as GitHub-flavoured Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from lab.report.document import (
    Block,
    BoxGallery,
    Bullets,
    Code,
    Figure,
    Gallery,
    Heading,
    Lead,
    Mono,
    Paragraph,
    Strong,
    Table,
    Text,
    Transcript,
    Warn,
    pieces,
    plain,
)

LINE_START = re.compile(r"^(?:[#>]|[-+](?=\s)|[-=](?=[-=]*$)|\d(?=\d*[.)]\s))")
"""What begins a heading, a quotation, a list or an underlined heading in Markdown."""


def to_markdown(blocks: Sequence[Block], folder: Path) -> str:
    """Render as Markdown; figures are linked relative to `folder`."""
    return "\n\n".join(markdown_block(block, folder) for block in blocks) + "\n"


def markdown_block(block: Block, folder: Path) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {markdown_text(text)}"
        case Lead(text):
            return f"**Answer.** {markdown_text(text)}"
        case Paragraph(text):
            return markdown_text(text)
        case Bullets(items):
            return "\n".join(f"- {markdown_text(item)}" for item in items)
        case Code(text):
            fence = "`" * max(3, longest_run(text) + 1)
            return f"{fence}\n{text}\n{fence}"
        case Warn(text):
            return f"> **Note.** {markdown_text(text)}"
        case Table():
            return markdown_table(block)
        case Gallery(cases):
            columns = ("question", "reference", *(answer.arm for answer in cases[0].answers))
            rows = [(case.question, case.reference, *(f"{a.sign} {a.text}" for a in case.answers)) for case in cases]
            return markdown_table(Table(columns, tuple(rows)))
        case BoxGallery(cases):
            rows = [(case.title, *(answer.said for answer in case.answers)) for case in cases]
            return markdown_table(Table(("picture", *(answer.arm for answer in cases[0].answers)), tuple(rows)))
        case Transcript(title):
            return f"{markdown_text(title)}\n\n{markdown_block(Code(block.marked), folder)}"
        case Figure(path, alt, caption, _):
            target = path.relative_to(folder).as_posix()
            return f"![{markdown_text(alt)}]({target})\n\n*{markdown_text(caption)}*"


def markdown_table(table: Table) -> str:
    """A pipe table; a bar inside a cell is escaped, which holds inside code too."""

    def row(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    rule = ["---:" if i in table.numeric else "---" for i in range(len(table.columns))]
    lines = [row(map(markdown_text, table.columns)), row(rule)]
    lines += [row(markdown_text(cell, in_table=True) for cell in cells) for cells in table.rows]
    return (f"{markdown_text(table.caption)}\n\n" if table.caption else "") + "\n".join(lines)


def markdown_text(text: Text, in_table: bool = False) -> str:
    """Escape what Markdown or HTML would act on; line breaks become spaces."""
    all_of_it = plain(text)
    brackets = r"\[\]" if re.search(r"\]\s*[(\[:]", all_of_it) else ""
    out = []
    for piece in pieces(text):
        flat = re.sub(r"\s+", " ", piece)
        if isinstance(piece, Mono) and flat.strip():
            fence = "`" * (longest_run(flat) + 1)
            pad = " " if flat.startswith("`") or flat.endswith("`") else ""
            flat = f"{fence}{pad}{flat}{pad}{fence}"
            out.append(flat.replace("|", "\\|") if in_table else flat)
            continue
        escaped = re.sub(rf"([\\`*<|~${brackets}])", r"\\\1", flat).replace("&", "&amp;")
        escaped = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", escaped)
        if not out and not in_table:
            escaped = re.sub(LINE_START, lambda start: f"&#{ord(start[0])};", escaped.lstrip())
        out.append(f"**{escaped}**" if isinstance(piece, Strong) else escaped)
    return "".join(out)


def longest_run(text: str) -> int:
    """Length of the longest run of backticks."""
    return max((len(run) for run in re.findall("`+", text)), default=0)
