"""A page as one HTML file that needs nothing beside it: style, script, figures and pictures inside, readable without the script.

No text on it is code: the content policy lets run nothing but `page.js` by its hash, and load nothing from anywhere.
"""

from __future__ import annotations

import base64
import html
import re
import struct
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from lab.host.files import script_source
from lab.report.document import (
    OUTCOMES,
    Answer,
    Block,
    Box,
    BoxAnswer,
    BoxCase,
    BoxGallery,
    Bullets,
    Case,
    Code,
    Figure,
    Gallery,
    Heading,
    Lead,
    Link,
    Mono,
    Paragraph,
    Stretch,
    Strong,
    Table,
    Text,
    Transcript,
    Warn,
    pieces,
)

STYLE, SCRIPT = (Path(__file__).with_name(name).read_text(encoding="utf-8").strip() for name in ("page.css", "page.js"))
THEMES = "".join(
    f'<label><input type="radio" name="theme" id="{name}"{" checked" if name == "auto" else ""}>{name}</label>' for name in ("auto", "light", "dark")
)


def to_html(blocks: Sequence[Block], title: str) -> str:
    """Render the whole page."""
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {script_source(SCRIPT)}"
    chapters = [block.text for block in blocks if isinstance(block, Heading) and block.level == 2]
    links = "".join(f'<a href="#{slug(chapter)}">{html.escape(chapter)}</a>' for chapter in chapters)
    body = "\n".join(side_by_side(blocks))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n"
        f'<nav>{links}<span class="theme" role="radiogroup" aria-label="colours">{THEMES}</span></nav>\n'
        f"<main>\n{body}\n</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def side_by_side(blocks: Sequence[Block]) -> Iterable[str]:
    """The blocks, figures in a row beside each other where the screen is wide enough."""
    for figures, group in groupby(blocks, lambda block: isinstance(block, Figure)):
        rendered = "\n".join(map(html_block, group))
        yield f'<div class="figures">\n{rendered}\n</div>' if figures else rendered


def slug(text: str) -> str:
    """The place of a chapter on the page."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def html_block(block: Block) -> str:
    """Render one block, which needs `STYLE` and no other."""
    match block:
        case Heading(2, text):
            return f'<h2 id="{slug(text)}">{html_text(text)}</h2>'
        case Heading(level, text):
            return f"<h{level}>{html_text(text)}</h{level}>"
        case Lead(text):
            return f'<p class="lead">{html_text(text)}</p>'
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
        case BoxGallery():
            return html_boxes(block)
        case Transcript(title, stretches):
            return f'<div class="case"><p>{html_text(title)}</p><div class="transcript">{"".join(map(html_stretch, stretches))}</div></div>'


def html_table(table: Table) -> str:
    def row(cells: Iterable[Text], tag: str, attributes: str = "") -> str:
        numbered = enumerate(cells)
        return f"<tr{attributes}>" + "".join(
            f"<{tag}{' class=n' if i in table.numeric else ''}>{html_text(cell)}</{tag}>" for i, cell in numbered
        ) + "</tr>"

    caption = f"<caption>{html_text(table.caption)}</caption>" if table.caption else ""
    runs = table.runs or ((),) * len(table.rows)
    head = row(table.columns, "th").replace(" %", "&nbsp;%")
    body = "\n".join(row(cells, "td", about(names, table.anchored)) for cells, names in zip(table.rows, runs, strict=True))
    return (
        f'<div class="scroll" tabindex="0"><table>{caption}\n<thead>{head}</thead>\n<tbody>\n{body}\n'
        "</tbody></table></div>"
    )


def about(runs: Sequence[str], anchored: bool = False) -> str:
    """The attributes of an element that is about some runs."""
    names = html.escape(" ".join(runs))
    return (f' data-runs="{names}"' if runs else "") + (f' id="run-{names}"' if runs and anchored else "")


def html_figure(figure: Figure) -> str:
    """The drawings of a figure for a wide and for a narrow screen, of which the style shows one."""
    alt = html.escape(figure.alt)
    drawn = "".join(
        f'<div class="{size}" role="img" aria-label="{alt}">{svg}</div>' for size, svg in zip(("wide", "narrow"), figure.svgs, strict=True)
    )
    return f"<figure>{drawn}<figcaption>{html_text(figure.caption)}</figcaption></figure>"


def html_case(case: Case) -> str:
    """A card with the pictures at their own size at most."""
    images = "".join(
        f'<img alt="image {place} of {len(case.pictures)}" src="data:image/webp;base64,{base64.b64encode(picture).decode()}">'
        for place, picture in enumerate(case.pictures, start=1)
    )
    question = "".join(map(html_turn, case.turns)) if case.turns else f"<p>{html_text(case.question)}</p>"
    question += f"<p>Reference: <strong>{html_text(case.reference)}</strong></p>" if case.reference else ""
    answers = "".join(map(html_answer, case.answers))
    return f'<div class="case"><div class="pictures">{images}</div>{question}<ul>{answers}</ul></div>'


def html_turn(turn: tuple[str, str]) -> str:
    """A message of a conversation as a bubble."""
    role, text = map(html.escape, turn)
    return f'<p class="turn {role}"><b>{role}</b>{text}</p>'


def html_stretch(stretch: Stretch) -> str:
    """Tokens in the colour of what becomes of them; a picture as it is seen."""
    text = html.escape(stretch.text)
    if stretch.picture is not None:
        return f'<span class="seen"><img alt="{text}" src="data:image/webp;base64,{base64.b64encode(stretch.picture).decode()}">{text}</span>'
    if stretch.face == "learned":
        return f'<mark class="learned">{text}</mark>'
    return f'<span class="{stretch.face}">{text}</span>' if stretch.face else text


def html_answer(answer: Answer) -> str:
    """An item with a mark, where it is known whether the answer is right."""
    said = f'<strong>{html_text(answer.text)}</strong> {html_text((Mono(answer.arm),)) if answer.arm else ""}'
    runs = about([answer.run] if answer.run else [])
    if answer.right is None:
        return f"<li{runs}>{said}</li>"
    style = {"✓": "right", "✗": "wrong"}.get(answer.sign, "partly")
    return f'<li class="{style}"{runs}><span role="img" aria-label="{answer.said}" title="{answer.said}">{answer.sign}</span> {said}</li>'


def html_boxes(gallery: BoxGallery) -> str:
    """Pictures with boxes, behind a filter that needs no script; a picture is enlarged by its checkbox."""
    outcomes = [name for name in OUTCOMES if any(box.outcome == name for case in gallery.cases for one in case.answers for box in one.boxes)]
    legend = "".join(f'<span class="key {name}">{OUTCOMES[name]}</span>' for name in outcomes)
    filters = "".join(
        f'<label><input type="radio" name="boxes" id="boxes-{name}"{" checked" if name == "all" else ""}>{name}</label>'
        for name in ("all", *(name for name in ("true", "false", "missed") if name in outcomes))
    )
    shown = f'<span class="filter" role="radiogroup" aria-label="boxes shown">{filters}</span>' if len(outcomes) > 1 else ""
    cases = "\n".join(html_box_case(case, place) for place, case in enumerate(gallery.cases))
    return f'<div class="boxes">\n<div class="tools">{legend}{shown}</div>\n{cases}\n</div>'


def html_box_case(case: BoxCase, place: int) -> str:
    """A card: the picture is in it once, each arm's boxes on a copy."""
    width, height = case.size
    data, name = base64.b64encode(case.picture).decode(), f"picture-{place}"
    image = f'<image id="{name}" width="{width}" height="{height}" preserveAspectRatio="none" href="data:image/webp;base64,{data}"/>'
    held = {f"has-{box.outcome}" for one in case.answers for box in one.boxes}
    arms = "".join(html_box_answer(one, case.size, name) for one in case.answers)
    return (
        f'<div class="{" ".join(["boxcase", *sorted(held)])}"><svg width="0" height="0" aria-hidden="true"><defs>{image}</defs></svg>'
        f'<p>{html_text(case.title)}</p><div class="arms">{arms}</div></div>'
    )


def html_box_answer(answer: BoxAnswer, size: tuple[int, int], picture: str) -> str:
    """One arm's boxes on the picture of that id."""
    width, height = size
    marks = "".join(html_box(box, width / 40) for box in answer.boxes)
    said, runs = html.escape(f"{answer.arm}: {answer.said}"), about([answer.run] if answer.run else [])
    arm = f"{html_text((Mono(answer.arm),))} " if answer.arm else ""
    return (
        f'<figure{runs}><label class="zoom"><input type="checkbox" aria-label="show large">'
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{said}"><use href="#{picture}"/>{marks}</svg></label>'
        f"<figcaption>{arm}{html_text(answer.said)}</figcaption></figure>"
    )


def html_box(box: Box, size: float) -> str:
    """A rectangle with a light edge, of a click a circle, so that it shows on any picture; its label is seen on the large one."""
    if box.x0 == box.x1 and box.y0 == box.y1:
        shape = f'circle cx="{box.x0:.1f}" cy="{box.y0:.1f}" r="{size / 2:.1f}"'
    else:
        x, y, wide, high = min(box.x0, box.x1), min(box.y0, box.y1), abs(box.x1 - box.x0), abs(box.y1 - box.y0)
        shape = f'rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high:.1f}"'
    at = f'x="{min(box.x0, box.x1) + size / 4:.1f}" y="{min(box.y0, box.y1) + size:.1f}" font-size="{size:.1f}"'
    return (
        f'<g class="box {box.outcome}"><title>{html.escape(box.told)}</title><{shape} class="edge"/><{shape}/>'
        f"<text {at}>{html.escape(box.label)}</text></g>"
    )


def css_width(png: bytes) -> int:
    """Width of a PNG on the screen in CSS pixels: `pHYs` dots per metre over 96 CSS pixels per inch."""
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
            escaped = f"<code>{re.sub(r'(?<=[=_])(?=[^=_])', '<wbr>', escaped)}</code>"  # a narrow column breaks a name there first
        elif isinstance(piece, Strong):
            escaped = f"<strong>{escaped}</strong>"
        out.append(f'<a href="{html.escape(piece.href)}">{escaped}</a>' if isinstance(piece, Link) else escaped)
    return "".join(out)
