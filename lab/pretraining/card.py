"""Save the finished base in Hugging Face layout, with its model card and the recipe that made it."""

from __future__ import annotations

import json
import logging

from lab.data.pairs import DEFAULT_DIFFICULTY
from lab.data.statements import HELD_BACK, TAUGHT
from lab.pretraining.exam import examine
from lab.pretraining.stages import Course

log = logging.getLogger(__name__)

CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---

# The tiny base

A `Qwen2VLForConditionalGeneration` of {millions:.2f} million parameters (float32, {vocabulary} tokens), made by this
laboratory from nothing, so that every experiment runs on one CPU core without a download. It is a subject for
experiments on fine-tuning, not a model to use: it knows coloured shapes on plain grounds and nothing else.

    python -m lab.pretraining --out DIR --seed {seed}

makes it: three stages, each seeded, resumable and bit-reproducible at one number of threads and one version of
the libraries.

| stage | trains | on what | steps |
|---|---|---|---|
| grounding | tower, merger | tokens name what is in their cell | {grounding_steps} x {grounding_images} images |
| words | language model | names point and count | {words_steps} x {words_pairs} pairs x {words_branches} |
| language | language model | statements, captions, words again | {language_steps} x {language_pairs} pairs x {branches} |

Statements are answered `True` or `False`, a quarter of them `Yes` or `No`. Probes that read names and counts off
hidden states are thrown away at the end.

All scenes are drawn by `lab/data/scenes.py`, from seeds that the `pairs` data set never uses. No other data was
used. Word embeddings are random, tied and fixed. Single-turn chats only, through the chat template in this folder.
Image size 64 x 64 (16 tokens); larger images up to 128 x 128 pixels' area are accepted and were never seen.

**Taught families:** {taught}.
**Held back** (no example, in any wording, in any stage): {held_back}.
They compare the two images. The tokenizer was fitted to their spelling too, so that their words are whole tokens,
with embeddings that no training has touched.

## What it scores without fine-tuning

On {asked} statements of `data=pairs` (dev, seed 0, difficulty {difficulty}) with `prompt=declarative`; every family is
half true. A family far below one half is misread, not unseen: `neither` is taken for a statement of presence.

| family | | right | of | accuracy |
|---|---|---|---|---|
{table}

Object cells of unseen scenes named right by the tower: {things:.2%}; empty cells: {empty:.2%}.

## Limits

It was never taught to refuse, to read, to count beyond five or to see anything but circles, squares, triangles,
diamonds and stars in six colours. Its English is a grammar of a few sentences. It was never tried on photographs.
"""


def publish(course: Course, size: int) -> None:
    """Write checkpoint, processor, recipe and card into the folder of the run, after an exam of `size` statements."""
    things, empty = course.check_grounding()
    tally = examine(course.model, course.processor, course.out / "state", size)
    course.model.save_pretrained(course.out)
    course.processor.save_pretrained(course.out)
    (course.out / "recipe.json").write_text(json.dumps(course.recipe.as_dict(), indent=2) + "\n", encoding="utf-8")
    text = CARD.format(
        **course.recipe.as_dict(),
        millions=sum(parameter.numel() for parameter in course.model.parameters()) / 1e6,
        vocabulary=len(course.processor.tokenizer),
        taught=", ".join(f"`{name}`" for name in TAUGHT),
        held_back=", ".join(f"`{name}`" for name in HELD_BACK),
        asked=sum(number for _, number in tally.values()),
        difficulty=DEFAULT_DIFFICULTY,
        table=table(tally),
        things=things,
        empty=empty,
    )
    (course.out / "README.md").write_text(text, encoding="utf-8")


def table(tally: dict[str, tuple[int, int]]) -> str:
    """Format (right, asked) per family as Markdown rows, with the totals."""
    rows = []
    groups = {"taught": TAUGHT, "held back": HELD_BACK}
    for kind, families in groups.items():
        rows += [_row(name, kind, *tally[name]) for name in families if tally[name][1]]
    for kind, families in groups.items():
        rows.append(_row("**all**", kind, *(sum(column) for column in zip(*(tally[n] for n in families), strict=True))))
    rows.append(_row("**all**", "", *(sum(column) for column in zip(*tally.values(), strict=True))))
    return "\n".join(rows)


def _row(name: str, kind: str, right: int, asked: int) -> str:
    share = f"{right / asked:.1%}" if asked else "-"
    return f"| {name} | {kind} | {right} | {asked} | {share} |"
