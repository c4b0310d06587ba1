"""A page as a list of blocks, and its two renderings: Markdown and self-contained HTML. All text is data and is escaped.

A text is a tuple of pieces: plain strings, `Mono` for what is typed or named by a machine, `Strong` for what must be seen.
"""

from __future__ import annotations

import base64
import html
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


class Mono(str):
    """Text shown in a fixed-width face."""


class Strong(str):
    """Text shown in bold."""


Text = str | tuple[str, ...]


@dataclass(frozen=True)
class Heading:
    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    text: Text


@dataclass(frozen=True)
class Bullets:
    items: tuple[Text, ...]


@dataclass(frozen=True)
class Code:
    text: str


@dataclass(frozen=True)
class Warn:
    """A paragraph that must not be overlooked."""

    text: Text


@dataclass(frozen=True)
class Table:
    """`numeric` columns are set flush right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Text, ...], ...]
    numeric: frozenset[int] = frozenset()
    caption: str = ""


@dataclass(frozen=True)
class Figure:
    """A PNG file and what it shows; `alt` is read to those who cannot see it."""

    path: Path
    alt: str
    caption: str


@dataclass(frozen=True)
class Answer:
    """What an arm answered to one question; right: 1, 0 or between; None: nobody knows."""

    arm: str
    text: str
    right: float | None

    @property
    def sign(self) -> str:
        """A mark that does not need a colour."""
        return "" if self.right is None else "✓" if self.right >= 1 else "◐" if self.right > 0 else "✗"

    @property
    def said(self) -> str:
        """`right`, `wrong` or `60 % right`."""
        return {"✓": "right", "✗": "wrong"}.get(self.sign, f"{100 * (self.right or 0):.0f} % right")


@dataclass(frozen=True)
class Case:
    """One question with its pictures (WebP), the reference (empty: nobody knows), and what every arm answered."""

    pictures: tuple[bytes, ...]
    question: Text
    reference: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Gallery:
    """Cases that the same arms answered; in Markdown a table without the pictures."""

    cases: tuple[Case, ...]


Block = Heading | Paragraph | Bullets | Code | Warn | Table | Figure | Gallery

STYLE = """
:root{color-scheme:light}
body{font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif;color:#1a1a1a;background:#fff;max-width:1500px;
margin:2rem auto;padding:0 1.5rem}
h1{font-size:1.7rem;line-height:1.25;margin:0 0 .3rem}h2{font-size:1.2rem;margin:2.2rem 0 .5rem;border-bottom:1px solid #ddd;
padding-bottom:.2rem}h3{font-size:1rem;margin:1.3rem 0 .3rem}p,li{max-width:75ch}
code{font:.88em ui-monospace,Menlo,Consolas,monospace;background:#f4f4f4;padding:.05em .25em;border-radius:3px;
overflow-wrap:anywhere}
pre{background:#f4f4f4;padding:.7rem .9rem;border-radius:4px;overflow-x:auto}pre code{background:none;padding:0}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.86rem;font-variant-numeric:tabular-nums;margin:.4rem 0}
caption{caption-side:top;text-align:left;color:#555;padding-bottom:.3rem}
th{text-align:left;vertical-align:bottom;border-bottom:2px solid #333;padding:.25rem .6rem;font-weight:600}
td{border-bottom:1px solid #e3e3e3;padding:.22rem .6rem;vertical-align:top}td.n,th.n{text-align:right}td.n{white-space:nowrap}
td code{overflow-wrap:normal}td:first-child,th:first-child{position:sticky;left:0;background:#fff;min-width:7rem}
figure{margin:1rem 0}img{max-width:100%;height:auto}figcaption{color:#555;font-size:.88rem;max-width:85ch}
.warn{border-left:4px solid #d55e00;background:#fdf3ec;padding:.4rem .8rem;max-width:85ch}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr));gap:1rem;margin:.6rem 0}
.case{border:1px solid #ddd;border-radius:6px;padding:.6rem .8rem;font-size:.9rem;min-width:0;overflow-wrap:anywhere}
.case p{margin:.4rem 0}.case ul{list-style:none;margin:.4rem 0 0;padding:0}
.case li{border-left:4px solid;padding:.1rem .5rem;margin:.2rem 0;background:#f7f7f7}
.case li.right{border-color:#0072b2}.case li.wrong{border-color:#d55e00}.case li.partly{border-color:#e69f00}
.right span{color:#0072b2}.wrong span{color:#b34d00}.partly span{color:#8a5f00}.case span{font-weight:700}
.pictures{display:flex;flex-wrap:wrap;gap:.4rem}.pictures img{flex:0 1 auto;min-width:min(6.5rem,45%);max-height:15rem;border:1px solid #eee}
@media print{body{max-width:none;margin:0;font-size:11px}.scroll{overflow:visible}h2{break-after:avoid}figure{break-inside:avoid}}
""".strip()


LINE_START = re.compile(r"^(?:[#>]|[-+](?=\s)|[-=](?=[-=]*$)|\d(?=\d*[.)]\s))")
"""What begins a heading, a quotation, a list or an underlined heading in Markdown."""


def pieces(text: Text) -> Iterable[str]:
    """The pieces of a text."""
    return (text,) if isinstance(text, str) else text


def plain(text: Text) -> str:
    """The text without its faces, on one line."""
    return " ".join("".join(pieces(text)).split())


def to_markdown(blocks: Sequence[Block], folder: Path) -> str:
    """Render as GitHub-flavoured Markdown; figures are linked relative to `folder`."""
    return "\n\n".join(markdown_block(block, folder) for block in blocks) + "\n"


def markdown_block(block: Block, folder: Path) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {markdown_text(text)}"
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
        case Figure(path, alt, caption):
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


def to_html(blocks: Sequence[Block], title: str) -> str:
    """Render as one HTML file that needs nothing beside it: no script, no network, figures inside."""
    body = "\n".join(html_block(block) for block in blocks)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{html.escape(title)}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def html_block(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{html_text(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{html_text(text)}</p>"
        case Bullets(items):
            return "<ul>\n" + "\n".join(f"<li>{html_text(item)}</li>" for item in items) + "\n</ul>"
        case Code(text):
            return f"<pre><code>{html.escape(text)}</code></pre>"
        case Warn(text):
            return f'<p class="warn">{html_text(text)}</p>'
        case Table():
            return html_table(block)
        case Figure():
            return html_figure(block)
        case Gallery(cases):
            return '<div class="gallery">\n' + "\n".join(map(html_case, cases)) + "\n</div>"


def html_table(table: Table) -> str:
    def row(cells: Iterable[Text], tag: str) -> str:
        numbered = enumerate(cells)
        return "<tr>" + "".join(
            f"<{tag}{' class=n' if i in table.numeric else ''}>{html_text(cell)}</{tag}>" for i, cell in numbered
        ) + "</tr>"

    caption = f"<caption>{html_text(table.caption)}</caption>" if table.caption else ""
    body = "\n".join(row(cells, "td") for cells in table.rows)
    return (
        f'<div class="scroll"><table>{caption}\n<thead>{row(table.columns, "th")}</thead>\n<tbody>\n{body}\n'
        "</tbody></table></div>"
    )


def html_figure(figure: Figure) -> str:
    """Inline the PNG at its own size: `pHYs` dots per metre over 96 CSS pixels per inch."""
    data = figure.path.read_bytes()
    width = css_width(data)
    source = base64.b64encode(data).decode()
    return (
        f'<figure><img width="{width}" alt="{html.escape(figure.alt)}" src="data:image/png;base64,{source}">'
        f"<figcaption>{html_text(figure.caption)}</figcaption></figure>"
    )


def html_case(case: Case) -> str:
    """A card with the pictures at their own size at most."""
    images = "".join(
        f'<img alt="image {place} of {len(case.pictures)}" src="data:image/webp;base64,{base64.b64encode(picture).decode()}">'
        for place, picture in enumerate(case.pictures, start=1)
    )
    answers = "".join(map(html_answer, case.answers))
    question = f"<p>{html_text(case.question)}</p>"
    question += f"<p>Reference: <strong>{html_text(case.reference)}</strong></p>" if case.reference else ""
    return f'<div class="case"><div class="pictures">{images}</div>{question}<ul>{answers}</ul></div>'


def html_answer(answer: Answer) -> str:
    """An item with a mark, where it is known whether the answer is right."""
    said = f'<strong>{html_text(answer.text)}</strong> {html_text((Mono(answer.arm),)) if answer.arm else ""}'
    if answer.right is None:
        return f"<li>{said}</li>"
    style = {"✓": "right", "✗": "wrong"}.get(answer.sign, "partly")
    return f'<li class="{style}"><span role="img" aria-label="{answer.said}" title="{answer.said}">{answer.sign}</span> {said}</li>'


def css_width(png: bytes) -> int:
    """Width of a PNG on the screen in CSS pixels."""
    (pixels,) = struct.unpack(">I", png[16:20])
    place = png.find(b"pHYs", 0, 4096)
    per_metre = struct.unpack(">I", png[place + 4 : place + 8])[0] if place > 0 else 0
    return round(pixels * 96 * 39.3700787 / per_metre) if per_metre else pixels


def html_text(text: Text) -> str:
    """Escape a text for HTML, between tags."""
    out = []
    for piece in pieces(text):
        escaped = html.escape(piece)
        if isinstance(piece, Mono):
            escaped = f"<code>{escaped}</code>"
        elif isinstance(piece, Strong):
            escaped = f"<strong>{escaped}</strong>"
        out.append(escaped)
    return "".join(out)
