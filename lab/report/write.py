"""Putting a report on disk: Markdown, HTML, LaTeX and figures, each marked as ours, and no foreign file ever overwritten.

A text file carries a line with the mark and the sha256 of all its other lines, so that one edited by hand is foreign too;
a figure carries the mark in its PNG `Software` field.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lab.errors import LabError
from lab.host.files import text_hash, write_atomically
from lab.host.progress import Report, silent
from lab.report import transfer
from lab.report.benchmarks import marked_table
from lab.report.document import Block, Table, Text, plain
from lab.report.drawing import MARK, Drawing, drawings
from lab.report.findings import Findings, study
from lab.report.formatting import shorten
from lab.report.markdown import to_markdown
from lab.report.measure import Measured, Result
from lab.report.page import blocks, drawing_names, pictures_of
from lab.report.select_runs import Selection
from lab.report.side_by_side import NAMES as VERSUS_NAMES
from lab.report.side_by_side import compare_sweeps, versus_blocks, versus_pictures
from lab.report.tables import Column, main_columns, state_of, with_baselines
from lab.report.webpage import to_html
from lab.statistics.resampling import LEAST_RESAMPLES

COMMENTS = {".md": "<!-- {} -->", ".html": "<!-- {} -->", ".tex": "% {}"}
LATEX = ("table.tex", "transfer.tex", "benchmarks.tex")
HEAD = 4096
"""Bytes in which the mark of a figure is looked for."""


def write_report(
    selection: Selection, out: Path, num_resamples: int = LEAST_RESAMPLES, report: Report = silent, workers: int = 1, num_cases: int = 0,
    findings: Findings | None = None,
) -> Path:
    """Write `out/<selection>/report.md`, `report.html`, `table.tex` and `figures/*.png`; return the folder.

    `transfer.tex` and `benchmarks.tex` are there where the report has these tables.
    num_cases: most in the gallery, whose pictures are read from the runs' data set; 0: no gallery, and nothing but run folders is read.
    findings: of the selection, where they are known.
    """  # fmt: skip
    folder = out / selection.name
    places = figure_places(folder, drawing_names())
    refuse_foreign([*(folder / name for name in ("report.md", "report.html", *LATEX)), *places.values()])
    findings = findings or study(selection, num_resamples, report, workers)
    drawn = drawings(pictures_of(findings), workers)
    write_figures(drawn, places)
    page = blocks(findings, drawn, folder, num_cases)
    tables = {"table.tex": to_latex(findings)} | more_to_latex(findings)
    write_texts(folder, page, f"Report {selection.name}", tables)
    for name in set(LATEX) - tables.keys():
        (folder / name).unlink(missing_ok=True)
    return folder


def write_comparison(
    first: Selection, second: Selection, out: Path, num_resamples: int = LEAST_RESAMPLES, report: Report = silent, workers: int = 1
) -> Path:
    """Write `out/<first>-against-<second>/report.md`, `report.html` and `figures/*.png`; return the folder."""
    folder = out / f"{first.name}-against-{second.name}"
    places = figure_places(folder, VERSUS_NAMES)
    refuse_foreign([folder / "report.md", folder / "report.html", *places.values()])
    findings = [study(one, num_resamples, report, workers) for one in (first, second)]
    versus = compare_sweeps(findings[0], findings[1], num_resamples, report)
    drawn = drawings(versus_pictures(versus), workers)
    write_figures(drawn, places)
    write_texts(folder, versus_blocks(versus, drawn, folder), f"{first.name} against {second.name}", {})
    return folder


def figure_places(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    return {name: folder / "figures" / f"{name}.png" for name in names}


def write_figures(drawn: Mapping[str, Drawing], places: Mapping[str, Path]) -> None:
    """Write the figures there are, and remove those of a report before this one."""
    for name, path in places.items():
        data = drawn[name].png if name in drawn else None
        if data is not None:
            write_atomically(path, data)
        else:
            path.unlink(missing_ok=True)


def write_texts(folder: Path, page: Sequence[Block], title: str, more: Mapping[str, str]) -> None:
    """Write the page as Markdown and HTML, and what else there is by name, each with its mark."""
    for name, body in {"report.md": to_markdown(page, folder), "report.html": to_html(page, title), **more}.items():
        write_atomically(folder / name, stamped(body, Path(name).suffix))


def refuse_foreign(paths: Iterable[Path]) -> None:
    """Raise a `LabError` for the first file in the way that was not written, or was changed since, by this module."""
    for path in paths:
        if not path.exists() and not path.is_symlink():
            continue
        if path.is_symlink() or not path.is_file() or not is_ours(path):
            raise LabError(
                f"{path}: it is in the way, and it was not written by lab.report or was edited since. Nothing was written. "
                "Move it elsewhere, or choose another folder with --out."
            )


def is_ours(path: Path) -> bool:
    """Whether this module wrote the file as it is."""
    data = path.read_bytes()
    if path.suffix not in COMMENTS:
        return MARK.encode() in data[:HEAD]
    lines = data.decode("utf-8", errors="replace").splitlines(keepends=True)
    for number, line in enumerate(lines[:2]):
        found = re.search(re.escape(MARK) + r"; sha256 of the other lines: ([0-9a-f]{64})", line)
        if found:
            return found[1] == text_hash("".join(lines[:number] + lines[number + 1 :]))
    return False


def stamped(body: str, suffix: str) -> str:
    """The text with its mark as the first line; in HTML as the second, after the doctype."""
    mark = COMMENTS[suffix].format(f"{MARK}; sha256 of the other lines: {text_hash(body)}") + "\n"
    first, end, rest = body.partition("\n")
    return f"{first}{end}{mark}{rest}" if suffix == ".html" else mark + body


def to_latex(findings: Findings) -> str:
    """The main table as a `booktabs` tabular, to be `\\input` inside a table environment of the paper."""
    columns = [column for column in main_columns(findings.kind) if column.header not in ("examples / clusters", "examples/s", "run")]
    letters = "".join("r" if column.numeric else "l" for column in columns)
    lines = [
        f"% {shorten(latex(findings.selection.title), 200)}; needs \\usepackage{{booktabs}}",
        "% intervals: 95 %; how they are made, definitions and provenance: report.md",
        f"\\begin{{tabular}}{{{letters}}}",
        "\\toprule",
        " & ".join(latex(column.header) for column in columns) + r" \\",
        "\\midrule",
        *(latex_row(columns, result) for result in findings.results),
    ]
    if findings.measured:
        rows = with_baselines(findings.measured)
        lines += ["\\midrule", *(" & ".join(latex(column.baseline(m)) for column in columns) + r" \\" for m in rows)]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def more_to_latex(findings: Findings) -> dict[str, str]:
    """Further tables by the name of their file: what else moved, and benchmarks; of none where there are no rows."""
    moved, marked = transfer.table_of(findings.transfer), marked_table(findings)
    says = {
        "transfer.tex": ("arms beside their base on data that they were not trained on; Holm over all rows", moved),
        "benchmarks.tex": ("replies marked by each benchmark's rule", marked),
    }
    return {name: latex_of(*one) for name, one in says.items() if one[1].rows}


def latex_of(says: str, table: Table) -> str:
    """A table as a `booktabs` tabular."""
    letters = "".join("r" if place in table.numeric else "l" for place in range(len(table.columns)))
    head, *rows = (" & ".join(map(latex, row)) + r" \\" for row in (table.columns, *table.rows))
    lines = [f"% {says}; needs \\usepackage{{booktabs}}", f"\\begin{{tabular}}{{{letters}}}", "\\toprule", head, "\\midrule", *rows]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def latex_row(columns: Sequence[Column], result: Result) -> str:
    """One arm; one without numbers says why across the columns."""
    if isinstance(result, Measured):
        return " & ".join(latex(column.cell(result)) for column in columns) + r" \\"
    why = f"{state_of(result)}: {shorten(result.reason, 120)}"
    return f"{latex(result.arm.label)} & \\multicolumn{{{len(columns) - 1}}}{{l}}{{{latex(why)}}} \\\\"


def latex(text: Text) -> str:
    """Escape what LaTeX would act on."""
    special = {
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "…": r"\dots{}", "→": r"$\to$",
        **{character: f"\\{character}" for character in "&%$#_{}"},
    }  # fmt: skip
    escaped = "".join(special.get(character, character) for character in plain(text))
    return f"{{}}{escaped}" if escaped.startswith(("[", "*")) else escaped  # after a row end these would be its options
