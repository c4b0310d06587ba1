"""What the words of the page mean, at its foot."""

from __future__ import annotations

from lab.report.kinds import KindPage
from lab.statistics.metrics import KINDS

SOURCE = (
    "Every number of quality is recomputed from the per-example predictions of the dev split (predictions/DATA.dev.parquet of the "
    "named run). Parameters, seconds, latency and memory are what the run recorded."
)
INTERVALS = (
    "95 % interval of a share of right answers ({shares}): mid-P exact binomial, with the "
    "number of examples divided by what clusters take from it (design effect; Korn and Graubard 1998). Examples that share an "
    "image set or a sentence group are in one cluster. Where all answers are right, clusters are counted as if they stood or "
    "fell together, and the lower end is the bound that 3 / n approximates (rule of three).",
    "95 % interval of any other number, and of a difference: percentiles of a bootstrap that draws whole clusters, not examples. "
    "Where every resample gives the same number there is no interval. Two arms that are right on the same examples have the "
    "bound on the share of examples on which they may yet differ.",
)
REST = (
    "latency: from pixels to answer logits after a warm-up, decoding of images excluded, the device synchronised at every "
    "reading; one example at a time unless said otherwise. vision: tower and projector; prefill: the language model over image "
    "tokens and text; one more token: over the key-value cache. merged: adapters added into the weights. p50 and p95 are order "
    "statistics. examples/s: with as many examples together as scoring takes. Arms of a sweep that compute the same operations, "
    "whatever their weights hold (they differ in learning rate or seed, say), share one measurement.",
    "p: two-sided test that swaps the two arms within random clusters (over several seeds: t with seeds and clusters "
    "crossed; two seeds carry no interval). Holm: step-down correction over all comparisons of {family}. McNemar: exact, blind "
    "to clusters.",
    "smallest detectable: difference in {headline} that this many examples and clusters find with probability 0.8 at a "
    "two-sided 0.05 (of several seeds: the first in common). noise floor: how far apart two runs that differ only in their "
    "seed may lie (95 %).",
    "A claim needs all three: Holm p < 0.05, an interval that excludes 0, a difference above the noise floor if one was "
    "measured; where there is no interval there is no claim.",
)


def definitions(page: KindPage, others: bool) -> tuple[str, ...]:
    """One paragraph an item: the headline, intervals, the kind's other metrics, what holds for every kind.

    others: the page has other data sets too.
    """
    kind = KINDS[page.kind]
    together = {name for names in page.paragraphs for name in names} | {kind.headline}
    paragraphs = (*page.paragraphs, *((name,) for name in page.measured if name not in together))
    metrics = [" ".join(kind.metrics[name].says for name in names) for names in paragraphs]
    words = {"shares": page.shares, "headline": kind.main.header, "family": "one data set" if others else "this page"}
    return (
        SOURCE, kind.main.says, *(text.format(**words) for text in INTERVALS), *filter(None, metrics), *page.definitions,
        *(text.format(**words) for text in REST),
    )  # fmt: skip
