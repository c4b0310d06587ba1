"""Answers that are boxes: what a model writes after a prompt, greedily, the boxes it reads as, and how probable it holds each of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, cast

from lab.answers import regions
from lab.config import EvaluationSection
from lab.evaluation import shared_prefix
from lab.evaluation.parts import Part, first_answers
from lab.evaluation.shared_prefix import Prefixes
from lab.evaluation.writing import in_batches
from lab.host.progress import Report, silent
from lab.model import Vlm
from lab.model.answers import RegionsReadout
from lab.model.encoded import Example
from lab.model.encoding import Encoder
from lab.records import Batch, Located, Prediction, Regions, Sample
from lab.training.examples import Examples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def answer(
    vlm: Vlm, examples: Examples, readout: RegionsReadout, section: EvaluationSection, split: str, report: Report = silent,
    part: Part = None,
) -> list[Prediction]:
    """Answer every example of a split; predictions are in file order. part: as of `lab.evaluation.writing.answer`."""
    most = section.most_tokens(readout.kind)
    found = first_answers(part, examples, 1 if section.shared_prefix else section.batch_size)
    if section.repair:
        log.warning("evaluation.repair=true: in %s swapped corners are sorted and boxes clamped to the picture before they are kept", split)

    def say(items: Sequence[Example], samples: Sequence[Sample], batch: Batch) -> list[Located]:
        read = shared_prefix.prefixes(vlm, examples.encoder, items) if section.shared_prefix else None
        return locate(vlm, examples.encoder, items, samples, readout.boxes, most, section.repair, read)

    return in_batches(vlm, examples, section, split, report, part, found, say, answered=False)


def locate(
    vlm: Vlm, encoder: Encoder, items: Sequence[Example], samples: Sequence[Sample], boxes: str, most: int, repair: bool = False,
    read: Prefixes | None = None,
) -> list[Located]:
    """What is written for some examples in at most so many tokens; an answer that the limit cut off is partial. read: what begins their prompts."""
    prompts = encoder.collate(items if read is None else shared_prefix.without_images(items), with_answers=False)
    written = shared_prefix.written(vlm, prompts, most, read)
    rows = zip(written.tokens.tolist(), written.each.tolist(), written.lengths.tolist(), written.ended.tolist(), samples, strict=True)
    return [located(encoder, one, boxes, ids[:length], log_p[:length], ended, repair) for ids, log_p, length, ended, one in rows]


def located(
    encoder: Encoder, sample: Sample, boxes: str, ids: Sequence[int], log_p: Sequence[float], ended: bool, repair: bool = False
) -> Located:
    """What tokens that were written for a sample read as, labels by `data.aliases`. log_p: of each; ended: the last is the end of the turn."""
    answer = cast(Regions, sample.answer)
    text, ends = text_of(encoder.tokenizer, ids[: len(ids) - ended])
    reading = regions.read(text, boxes, size=answer.size, resized=encoder.resized(answer.size), repair=repair)
    status = "partial" if reading.status == "ok" and not ended else reading.status
    scores = tuple(probability(log_p, ends, span) for span in reading.spans)
    aliases = dict(encoder.answers.aliases)
    found = tuple(region._replace(label=aliases.get(region.label, region.label)) for region in reading.regions or reading.points)
    return Located(text, boxes, status, found, scores, len(ids), ended, sum(log_p))


def texts(tokenizer: PreTrainedTokenizerBase, rows: list[list[int]]) -> list[str]:
    """Rows of tokens as boxes are read from them: with the special tokens that boxes are written with."""
    return tokenizer.batch_decode(rows, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def text_of(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[str, list[int]]:
    """The text of some tokens, special ones too, and the place in it where each token ends."""
    (text,), pieces = texts(tokenizer, [list(ids)]), texts(tokenizer, [[one] for one in ids])
    if "".join(pieces) == text:
        return text, list(accumulate(map(len, pieces)))
    return text, [len(start) for start in texts(tokenizer, [list(ids[:number]) for number in range(1, len(ids) + 1)])]  # characters of several tokens


def probability(log_p: Sequence[float], ends: Sequence[int], span: tuple[int, int]) -> float:
    """Geometric mean probability of the tokens that stand in a span of the text. ends: of the tokens."""
    inside = [p for p, start, end in zip(log_p, [0, *ends], ends, strict=False) if start < span[1] and end > span[0]]
    return math.exp(min(0.0, sum(inside) / len(inside)))
