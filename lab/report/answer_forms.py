"""What written answers look like: their length and form, what rules make of them, what is taken for what, right by subset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from lab.answers import predictions
from lab.answers.predictions import PredictionTable
from lab.errors import LabError
from lab.report.compare import INDEX
from lab.report.document import Block, Heading, Mono, Paragraph, Table, Text
from lab.report.findings import Findings
from lab.report.formatting import NONE, count, decimal, number_within, percent
from lab.report.measure import Measured
from lab.report.tables import best, label_of, shown_of
from lab.statistics.intervals import interval
from lab.statistics.metrics import KINDS, Metric
from lab.statistics.metrics.text import numbers_of

METRICS = KINDS["text"].metrics
NEEDS = METRICS["exact_match"].needs
SAME_RULE = "blip"
"""The rule that all arms are read by beside their own: it keeps digits."""
MOST_ARMS, MOST_CONFUSED, MOST_MATRICES, MOST_ANSWERS = 8, 5, 2, 8
YES_NO = {"yes", "no"}


def table_of(headers: Sequence[str], those: Sequence[Measured], cells: Callable[[Measured, PredictionTable], Sequence[Text]], total: int) -> Table:
    """A row an arm, from its answers as they were written."""
    rows = tuple((label_of(m), *cells(m, predictions.read(m.path, NEEDS))) for m in those)
    runs = tuple((m.arm.run.identity,) for m in those)
    return Table(("arm", *headers), rows, frozenset(range(1, len(headers) + 1)), shown_of(total), runs)


def forms_blocks(findings: Findings) -> list[Block]:
    """Length and form of the answers before any rule."""
    measured = findings.measured

    def cells(m: Measured, table: PredictionTable) -> list[Text]:
        words = np.array([len(text.split()) for text in table.text])
        references = [len(several[0].split()) == 1 for several in table.references]
        commonest, times = Counter(text.strip() for text in table.text).most_common(1)[0]
        return [
            decimal(float(words.mean()), 2), percent(float((words == 1).mean())), percent(float(np.mean(references))),
            percent(float((words == 0).mean())), (Mono(commonest or "(nothing)"), f" {percent(times / len(table))}"),
        ]  # fmt: skip

    headers = ("words", "single word, %", "references of a single word, %", "empty, %", "commonest answer, %")
    said = "As written, before prompt.post: a far larger share of the commonest answer than of any reference means answers have collapsed."
    return [Heading(3, "Length and form"), Paragraph(said), table_of(headers, best(measured), cells, len(measured))]


def rules_blocks(findings: Findings) -> list[Block]:
    """Exact match and token F1 as written, by each arm's own rule, and by one rule for all; what rules take from references."""
    measured, rules = findings.measured, ("none", "own", SAME_RULE)

    def cells(m: Measured, table: PredictionTable) -> list[Text]:
        read = [table if rule == "own" else by_rule(table, rule) for rule in rules]
        scores: list[Text] = [percent(metric.of(each)) for metric in (METRICS["exact_match"], METRICS["token_f1"]) for each in read]
        return [(Mono(str(table.post[0])),), *scores, *map(count, losses(table))]

    names = ("as written", "by its rule", f"by {SAME_RULE}")
    headers = ("prompt.post", *(f"{header} {name}, %" for header in ("exact match", "token F1") for name in names))
    headers += ("references emptied", "numbers changed", "numeric references")
    said = (
        f"Post-processing off and on: the same answers compared as written, read by the arm's own prompt.post, and all by {SAME_RULE}. A "
        "reference that its rule empties, or whose number it changes, cannot be met as it was meant."
    )
    return [Heading(3, "Post-processing off and on"), Paragraph(said), table_of(headers, best(measured), cells, len(measured))]


def by_rule(table: PredictionTable, rule: str) -> PredictionTable:
    """The same answers read by another rule."""
    return table.replace(post=np.array([rule] * len(table), dtype=object))


def losses(table: PredictionTable) -> tuple[int, int, int]:
    """Questions with a reference that its rule empties, with one whose number it changes, and with one that holds a number."""
    pairs = [list(zip(post, raw, strict=True)) for (_, post), raw in zip(table.normal, table.references, strict=True)]
    emptied = sum(any(raw.strip() and not post for post, raw in several) for several in pairs)
    changed = sum(any(not numbers_of(raw) <= numbers_of(post) for post, raw in several if post) for several in pairs)
    return emptied, changed, sum(any(numbers_of(raw) for _, raw in several) for several in pairs)


def confusion_blocks(findings: Findings) -> list[Block]:
    """What is most often taken for what, of each arm; and of the best arms a matrix of the commonest references."""
    measured = findings.measured

    def cells(m: Measured, table: PredictionTable) -> list[Text]:
        wrong = Counter((references[0], text) for text, references in table.normal if text not in references)
        told = [(Mono(reference), " → ", Mono(text or "(nothing)"), f" {times}") for (reference, text), times in wrong.most_common(MOST_CONFUSED)]
        return [tuple(piece for i, each in enumerate(told) for piece in (*([", "] if i else []), *each)) or NONE]

    page: list[Block] = [Heading(3, "What is taken for what")]
    page += [Paragraph(f"The {MOST_CONFUSED} commonest wrong answers of each arm: reference → answer, questions; both read by the rule.")]
    confused = table_of(("reference → answer",), best(measured), cells, len(measured))
    page.append(Table(confused.columns, confused.rows, frozenset(), confused.caption, confused.runs))
    return page + [block for m in best(measured, MOST_MATRICES) for block in matrix_blocks(m)]


def matrix_blocks(m: Measured) -> list[Block]:
    """Shares of each answer among the questions of each of the commonest references."""
    normal = predictions.read(m.path, NEEDS).normal
    references = Counter(several[0] for _, several in normal)
    shown = [reference for reference, _ in references.most_common(MOST_ANSWERS)]
    given = Counter((several[0], text) for text, several in normal)
    rows = []
    for reference in shown:
        among = [given[reference, answer] for answer in shown]
        rest = references[reference] - sum(among)
        shares = [percent(number / references[reference], 0) for number in (*among, rest)]
        rows.append(((Mono(reference or "(nothing)"),), count(references[reference]), *shares))
    headers = ("reference", "questions", *(answer or "(nothing)" for answer in shown), "another answer")
    said = (Mono(m.arm.label), f": answers to the questions of the {len(shown)} commonest references, % of each row.")
    return [Paragraph(said), Table(headers, tuple(rows), frozenset(range(1, len(headers))), runs=((m.arm.run.identity,),) * len(rows))]


def subsets_table(measured: Sequence[Measured]) -> Table | None:
    """The headline in every subset, and in the questions that are answered yes or no, each with its interval by cluster; a row an arm."""
    shown, sizes, cells = best(measured, MOST_ARMS), {}, []
    for m in shown:
        table = predictions.read(m.path, (*INDEX, "subset", *dict.fromkeys((*NEEDS, *m.kind.main.needs))))
        inside = parts(table)
        sizes |= {name: int(rows.sum()) for name, rows in inside.items()}
        cells.append({name: within(m.kind.main, table.take(rows)) for name, rows in inside.items()})
    if not sizes:
        return None
    headers = ("arm", *(f"{name} (n = {count(size)}) [95 %]" for name, size in sizes.items()))
    rows = tuple((label_of(m), *(of.get(name, NONE) for name in sizes)) for m, of in zip(shown, cells, strict=True))
    runs = tuple((m.arm.run.identity,) for m in shown)
    return Table(headers, rows, frozenset(range(1, len(headers))), shown_of(len(measured), MOST_ARMS), runs)


def parts(table: PredictionTable) -> dict[str, np.ndarray]:
    """Rows of each named subset, and of the questions whose references say yes or no, bool [n]."""
    named = {name: table.subset == name for name in sorted({name for name in table.subset.tolist() if name})}
    yes_no = np.array([{reference.strip().lower() for reference in several} <= YES_NO for several in table.references])
    told = not yes_no.any() or yes_no.all() or any(np.array_equal(yes_no, inside) for inside in named.values())
    return named if told else named | {"(answered yes or no)": yes_no}


def within(metric: Metric, table: PredictionTable) -> str:
    """`71.2 [69.9, 72.4]`, or without an interval where one cluster has all."""
    try:
        return number_within(metric, metric.of(table), interval(table, metric.name))
    except LabError:
        return f"{number_within(metric, metric.of(table), None)} [one cluster]"
