"""A page on which a person looks at drawn pictures with their questions, by the keyboard, and what was decided there.

It is one file that needs no network. What is decided stays in the browser until `s` saves it as a file, for `review.decisions=FILE`.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from lab.curation.catalogue import Catalogue, Refusal
from lab.curation.config import Curation
from lab.curation.manifest import Entry
from lab.curation.selection import Chosen
from lab.data import images
from lab.data.files import read_text
from lab.errors import ConfigError
from lab.host.files import script_source

STYLE, SCRIPT = (Path(__file__).with_name(name).read_text(encoding="utf-8").strip() for name in ("review.css", "review.js"))
SIDE = 420
"""Pixels of a picture on the page, at most."""
DROPPED = "dropped in review"
BUTTONS = (("a", "accept"), ("m", "mend"), ("d", "drop"), ("u", "undo"), ("k", "back"), ("j", "next"), ("s", "save decisions.json"))


def decided(rows: Sequence[Entry], config: Curation) -> tuple[list[Entry], list[Refusal], list[str]]:
    """The rows under the decisions of a review, what was dropped, and notes. Raises `ConfigError` for a file of another kind or manifest."""
    path = config.review.decisions
    if path is None:
        return list(rows), [], []
    try:
        decisions = json.loads(read_text(path))["decisions"]
        verdicts = {one: (what["decision"], what.get("question"), what.get("answer")) for one, what in decisions.items()}
        wrong = [one for one, what in verdicts.items() if what[0] not in ("accept", "mend", "drop") or (what[0] == "mend" and not all(what[1:]))]
    except OSError as error:
        raise ConfigError(f"review.decisions={path}: it cannot be read ({error.strerror}). Name the file that review.html saved.") from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise ConfigError(f"review.decisions={path}: it is no file that review.html saved (JSON with decisions).") from None
    if wrong:
        raise ConfigError(f"review.decisions={path}: {wrong[0]}: legal are accept, drop, and mend with a question and an answer.")
    strange = verdicts.keys() - {row.id for row in rows}
    if strange and len(strange) == len(verdicts):
        raise ConfigError(f"review.decisions={path}: none of its {len(verdicts)} questions is in this manifest. It was saved on the page of another.")
    kept: list[Entry] = []
    dropped: list[Refusal] = []
    for row in rows:
        what, question, answer = verdicts.get(row.id, ("", None, None))
        if what == "drop":
            dropped.append(Refusal(DROPPED, row.listing, row.image, row.question, row.answer))
        elif what == "mend":
            kept.append(replace(row, question=str(question), answer=str(answer), reviewed=True))
        else:
            kept.append(replace(row, reviewed=bool(what)))
    notes = [f"review.decisions: {len(verdicts) - len(strange)} are followed."]
    notes += [f"review.decisions: {len(strange)} are about questions that are not in the manifest any more."] if strange else []
    return kept, dropped, notes


def page(chosen: Sequence[Chosen], rows: Sequence[Entry], refusals: Sequence[Refusal], catalogue: Catalogue, config: Curation) -> str:
    """The page of `review.pictures` drawn pictures, those first of whose questions most are doubtful or refused."""
    kept: dict[str, list[Entry]] = defaultdict(list)
    refused: dict[str, list[Refusal]] = defaultdict(list)
    for row in rows:
        kept[row.listing].append(row)
    for refusal in refusals:
        if refusal.question or refusal.line:
            refused[refusal.listing].append(refusal)
    products = [one for one in chosen if one.product.name in kept or one.product.name in refused]
    products.sort(key=lambda one: hashlib.sha256(f"review/{config.curation.seed}/{one.product.name}".encode()).digest())

    def doubt(one: Chosen) -> float:
        mine, others = kept[one.product.name], refused[one.product.name]
        return (sum(map(bool, (row.doubts for row in mine))) + len(others)) / (len(mine) + len(others))

    shown = sorted(products[: config.review.pictures], key=doubt, reverse=True)
    cards = "\n".join(card(one, kept[one.product.name], refused[one.product.name], catalogue) for one in shown)
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {script_source(SCRIPT)}"
    buttons = "".join(f'<button data-key="{key}">{name} <kbd>{key}</kbd></button>' for key, name in BUTTONS)
    name = hashlib.sha256("".join(row.id for row in rows).encode()).hexdigest()[:16]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<title>Review</title>\n<style>\n{STYLE}\n</style>\n</head>\n'
        f'<body data-manifest="{name}">\n<header><strong>{len(shown)} of {len(products)} pictures, most doubtful first</strong>'
        f'<span id="done"></span>{buttons}</header>\n<main>\n{cards}\n</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n'
    )


def card(one: Chosen, rows: Sequence[Entry], refusals: Sequence[Refusal], catalogue: Catalogue) -> str:
    """One picture with its questions, those that were refused, and its attributes."""
    product = one.product
    image = images.decode(catalogue.tables.fetch(product.picture) if catalogue.tables else product.picture)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=85)
    items = "".join(
        f'<li class="kept" data-id="{row.id}"><span class="question">{html.escape(row.question)}</span>'
        f'<span class="answer">{html.escape(row.answer)}</span>{reasons(row.doubts)}<span class="verdict"></span></li>\n'
        for row in rows
    )
    items += "".join(
        f'<li class="refused"><span class="question">{html.escape(each.question or each.line)}</span>'
        f'<span class="answer">{html.escape(each.answer)}</span>{reasons([each.reason])}</li>\n'
        for each in refusals
    )
    return (
        f'<section><img alt="the product" src="data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}">\n<div>'
        f"<h2>{html.escape(product.name)} <span>{one.split}</span></h2>\n<ul>\n{items}</ul>\n"
        f"<details open><summary>attributes</summary><pre>{html.escape(product.metadata)}</pre></details></div></section>"
    )


def reasons(words: Sequence[str]) -> str:
    """Why something is doubtful or refused."""
    return f'<span class="reason">{html.escape(", ".join(words))}</span>' if words else ""
