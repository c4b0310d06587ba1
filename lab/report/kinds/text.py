"""Answers in words on a page: the commonest reference, reliability, answers cut off or empty, what was answered how often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lab.answers import predictions
from lab.answers.predictions import PredictionTable
from lab.config import MOST_TOKENS
from lab.report import answer_forms, answer_scores
from lab.report.checks import named
from lab.report.confidence_figures import Confidence
from lab.report.diagnostics import path_of
from lab.report.document import Block, Heading, Mono, Paragraph, Table
from lab.report.findings import Findings
from lab.report.formatting import percent, quantity
from lab.report.kinds import KindPage
from lab.report.measure import Measured
from lab.report.tables import Column, best, best_table, label_of, metric_column, recorded, shown_of
from lab.statistics.metrics import KINDS

METRICS = KINDS["text"].metrics
ALWAYS = "always "
MOST_ANSWERS, MOST_ARMS = 12, 8
"""Rows and arms of the table of what was answered how often."""
OFTEN = 0.05
"""Share of answers cut off, or of references damaged, from which on a reader is told first."""


def details(dev: PredictionTable, minival: PredictionTable | None, reason: str | None) -> Confidence:
    """Exact match against the probability of the written answer."""
    return Confidence.of(dev)


def reading(config: Mapping[str, Any]) -> str:
    """How an answer is written and which rule reads it."""
    section = config.get("evaluation", {})
    most = (section["max_new_tokens"] or MOST_TOKENS["text"]) if "max_new_tokens" in section else None
    at_most = "" if most is None else f" up to {most} tokens"
    return f"written greedily{at_most}, read by prompt.post={config.get('prompt', {}).get('post', 'none')}"


def commonest(table: PredictionTable) -> tuple[str, dict[str, float]]:
    """Always the reference that is taught most often."""
    counts = Counter(reference for references in table.references for reference in dict.fromkeys(references))
    answer, number = max(counts.items(), key=lambda item: item[1])
    return f"{ALWAYS}{answer}", {"exact_match": number / len(table)}


def in_words(table: PredictionTable) -> list[tuple[str, str]]:
    """The distinct references, and what was written with its probability."""
    rows = zip(table.references, table.text, table.confidence.tolist(), strict=True)
    return [(" / ".join(references), f"{text or '(nothing)'} ({100 * confidence:.0f} %)") for references, text, confidence in rows]


def remarks(measured: Sequence[Measured]) -> list[str]:
    """Answers that were cut off, and references that the rule damages."""
    cut = [m for m in measured if m.metrics["cut_off"] > OFTEN]
    said = {
        f"More than {100 * OFTEN:.0f} % of the answers of {named(cut)} were cut off (up to {percent(max(m.metrics['cut_off'] for m in cut))} "
        "%): raise evaluation.max_new_tokens, or train longer." for _ in cut[:1]
    }  # fmt: skip
    damaged = max((m.metrics["damaged_references"] for m in measured), default=0.0)
    if damaged > OFTEN:
        said.add(f"The rule prompt.post takes all text or a number from references of {percent(damaged)} % of the questions.")
    return sorted(said)


def calibration_blocks(findings: Findings, figure: Callable[[str], list[Block]]) -> list[Block]:
    """Calibration of the probability of what was written."""
    names = ("ece", "ece_per_token", "token_nll", "auroc_confidence", "aurc")
    columns = [Column("arm", label_of, False), *(metric_column(METRICS[name]) for name in names)]
    return [Heading(2, "Calibration"), best_table(columns, findings.measured), *figure("reliability"), *figure("risk_coverage")]


def answers_blocks(findings: Findings) -> list[Block]:
    """Six metrics; how answers end, what they look like, and the commonest references beside how often each arm gives them."""
    measured = findings.measured
    names = ("cut_off", "empty", "commonest_answer", "damaged_references")
    columns = [Column("arm", label_of, False), *(metric_column(METRICS[name]) for name in names)]
    columns.append(Column("tokens/s", recorded("latency/tokens_per_second", quantity)))
    page = [*answer_scores.scores_blocks(findings), Heading(2, "What was answered"), best_table(columns, measured), *distribution(findings)]
    chapters = (answer_forms.forms_blocks, answer_forms.rules_blocks, answer_forms.confusion_blocks)
    return [*page, *(block for chapter in chapters for block in chapter(findings))]


def distribution(findings: Findings) -> list[Block]:
    """Shares of dev, of the commonest references and of each arm's answers, both read by the rule."""
    measured = best(findings.measured, MOST_ARMS)
    shares: dict[str, Counter[str]] = {}
    references: Counter[str] = Counter()
    for m in measured:
        table = predictions.read(path_of(m, findings.selection.runs_dir, "dev"), METRICS["exact_match"].needs)
        shares[m.arm.run.identity] = Counter(text for text, _ in table.normal)
        references = references or Counter(answers[0] for _, answers in table.normal)
    rows = [
        ((Mono(answer or "(nothing)"),), percent(count / references.total()))
        + tuple(percent(given[answer] / given.total()) for given in shares.values())
        for answer, count in references.most_common(MOST_ANSWERS)
    ]
    headers = ("answer", "references, %", *(f"{m.arm.label}, %" for m in measured))
    said = f"The {len(rows)} commonest of {len(references):,} references (the first of each question), and how often each arm wrote them."
    table = Table(headers, tuple(rows), frozenset(range(1, len(headers))), shown_of(len(findings.measured), MOST_ARMS))
    return [Paragraph(said), table]


PAGE = KindPage(
    kind="text",
    also=("ece_per_token", "cut_off", "empty", "commonest_answer", "damaged_references"),
    paragraphs=(("ece", "ece_per_token"), ("auroc_confidence", "aurc"), ("cut_off", "empty", "commonest_answer"), ("damaged_references",)),
    definitions=("tokens/s: further tokens of one example alone. latency is the time to its first token.",),
    shares="exact match",
    baseline=commonest,
    baseline_needs=(),
    baseline_name="commonest reference",
    guessed="what answers without the images get",
    reading=reading,
    details=details,
    confidence=lambda m: m.details,
    compared="exact match against the probability of the written answer",
    remarks=remarks,
    in_words=in_words,
    subsets=answer_forms.subsets_table,
    calibration=calibration_blocks,
    diagnostics=answers_blocks,
)
