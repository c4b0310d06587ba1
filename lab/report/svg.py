"""A Matplotlib figure as SVG inside a page: in the page's colours, which follow light and dark, with words for whoever points at a mark."""

from __future__ import annotations

import io
import json
import re
from xml.etree import ElementTree

from matplotlib.artist import Artist
from matplotlib.figure import Figure

from lab.report.measure import Measured
from lab.report.palette import VARIABLES

TOLD = "told "
"""Begins the id of a group whose words and run follow it as JSON."""
SVG, LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
NUMERIC = ("d", "x", "y", "transform", "width", "height")
FONT = re.compile(r"font-family: [^;]*;? ?")
LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")


def tell(artist: Artist, m: Measured, text: str) -> None:
    """Say of which arm an artist is and what a reader is told who points at it."""
    artist.set_gid(TOLD + json.dumps([m.arm.run.identity, f"{m.arm.label}\n{text}"]))


def inline(figure: Figure) -> str:
    """The figure as one `<svg>` element without a declaration."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    root = ElementTree.fromstring(buffer.getvalue())
    root.remove(root[0])  # its style would be the page's too; `page.css` has it
    for element in list(root.iter()):
        group = element.attrib.pop("id", "") if element.tag == f"{SVG}g" else ""
        if group.startswith(TOLD):
            annotate(element, *json.loads(group.removeprefix(TOLD)))
        rewrite(element.attrib)
        element.tag = element.tag.removeprefix(SVG)
        element.text = element.text if element.tag in ("text", "title") else None
        element.tail = None
    width = root.attrib.pop("width")
    root.attrib |= {"style": f"width: {float(width.removesuffix('pt')) * 4 / 3:.0f}px"}
    root.attrib.pop("height")
    return ElementTree.tostring(root, encoding="unicode").replace("&#10;", " ")


def annotate(group: ElementTree.Element, run: str, text: str) -> None:
    """Name the run of a group, lead from it to the run's row, and title it."""
    marks = list(group)
    for mark in marks:
        group.remove(mark)
    group.set("data-runs", run)
    ElementTree.SubElement(group, "title").text = text
    ElementTree.SubElement(group, "a", {"href": f"#run-{run}"}).extend(marks)


def rewrite(attributes: dict[str, str]) -> None:
    """Shorter numbers, the page's own face, colours by name."""
    if LINK in attributes:
        attributes["href"] = attributes.pop(LINK)
    for name in NUMERIC:
        if name in attributes:
            short = LONG_NUMBER.sub(lambda number: f"{float(number[0]):.2f}", attributes[name])
            attributes[name] = " ".join(short.split())
    if attributes.get("transform", "").startswith("rotate(-0 "):
        del attributes["transform"]
    if "style" in attributes:
        style = FONT.sub("", attributes["style"])
        attributes["style"] = re.sub(r"#[0-9a-f]{6}", lambda colour: VARIABLES.get(colour[0], colour[0]), style)
