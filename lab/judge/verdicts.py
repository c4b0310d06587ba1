"""Verdicts on the replies to a benchmark: asked for once, kept raw, and held against the exact rule and against a person's marks.

    runs_dir/judge/verdicts.sqlite      every reply of the judge and every attempt, of all runs
    PLACE.verdicts.jsonl                of one result: id, reply, score by the exact rule, by the judge, and what the judge wrote
    PLACE.marks.csv                     a random subset for a person, who fills the column mark with 0 or 1; written once

A verdict is kept under question, right answers, reply, version of the prompt and model, so that no two runs pay for one. What is no verdict is
asked for again, here `TRIES` times and by every later command. What is not judged is out of n.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lab.config import Endpoint
from lab.data.benchmarks.marks import shares, told
from lab.data.benchmarks.questions import Question
from lab.errors import DataError
from lab.host.files import text_hash, write_atomically
from lab.host.progress import Report
from lab.host.redaction import without_secrets
from lab.judge import prompt
from lab.judge.person import marks_of, offer
from lab.llm import config, store
from lab.llm.asking import Asker, ask_all
from lab.llm.client import Client
from lab.llm.config import Service
from lab.llm.limits import Meter, QuotaUsedUp
from lab.llm.request import Request
from lab.llm.store import Answer, State, Store

SECTION = "evaluation.judge"
TRIES = 3
"""How often a reply that is no verdict is asked for in one command."""
RIGHT = 0.5
"""The least exact score that counts as right where it is held against a verdict."""


@dataclass(frozen=True)
class Judged:
    """facts: what the result holds as `judge`. ended: what stopped the asking before its end; None: all were asked."""

    facts: dict[str, Any]
    ended: Exception | None


def service_of(judge: Endpoint) -> Service:
    """The judge's server. Raises `ConfigError` for keys that cannot be, or a secret that is not there."""
    service = config.of_endpoint(judge, SECTION, prompt.MOST_TOKENS)
    config.check(service)
    return service


def mark(judge: Endpoint, questions: Sequence[Question], rows: Sequence[Mapping[str, Any]], runs_dir: Path, place: Path, report: Report) -> Judged:
    """Ask for the verdicts that are missing, and write what there is. rows: of `marks.result`, of some or all questions.

    place: of the result, without its ending. Raises `BusyError` where another command asks the same judge.
    """
    service, by_name = service_of(judge), {question.name: question for question in questions}
    questions = [by_name[row["id"]] for row in rows]
    wanted = [request(question, row["reply"], service) for question, row in zip(questions, rows, strict=True)]
    with store.opened(runs_dir / "judge" / "verdicts.sqlite") as kept:
        ended = ask(list({one.key: one for one in wanted}.values()), service, kept, report)
        verdicts = [kept.answer(one.key) for one in wanted]
    scores = [None if verdict is None else score(verdict) for verdict in verdicts]
    keep(rows, scores, [verdict and verdict.text for verdict in verdicts], kept_at(place))
    marks = place.with_name(f"{place.name}.marks.csv")
    offer(marks, questions, rows)
    head = {"model": judge.model, "prompt_version": prompt.VERSION, "waiting": scores.count(None)}
    numbers = compared(questions, rows, scores, marks_of(marks, rows), told_at_all=not isinstance(ended, QuotaUsedUp))
    return Judged(head | numbers | ({} if ended is None else {"stopped": without_secrets(str(ended))}), ended)


def kept_at(place: Path) -> Path:
    """Where the verdicts of a result lie."""
    return place.with_name(f"{place.name}.verdicts.jsonl")


def keep(rows: Sequence[Mapping[str, Any]], scores: Sequence[int | None], texts: Sequence[str | None], path: Path) -> None:
    """Write the verdicts beside what the exact rule says."""
    found = [
        {"id": row["id"], "reply": row["reply"], "score": row["score"], "judge": given, "verdict": text}
        for row, given, text in zip(rows, scores, texts, strict=True)
    ]
    write_atomically(path, "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in found))


def held_anew(
    before: Mapping[str, Any], questions: Sequence[Question], rows: Sequence[Mapping[str, Any]], place: Path, write: bool
) -> dict[str, Any]:
    """What the verdicts of a result come to beside rows that are marked anew; nobody is asked. write: also the verdicts' own file.

    Verdicts on replies that are others now are out of it. Raises `DataError` where the file of verdicts cannot be read.
    """
    try:
        lines = [json.loads(line) for line in kept_at(place).read_bytes().splitlines()]
        known = {(line["id"], line["reply"]): (line["judge"], line["verdict"]) for line in lines}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{kept_at(place)}: the judge's verdicts cannot be read ({error}). The command that asked writes them anew.") from None
    by_name = {question.name: question for question in questions}
    found = [known.get((row["id"], row["reply"]), (None, None)) for row in rows]
    scores, marks = [given for given, _ in found], place.with_name(f"{place.name}.marks.csv")
    if write:
        keep(rows, scores, [text for _, text in found], kept_at(place))
    head = {key: before[key] for key in ("model", "prompt_version", "stopped") if key in before} | {"waiting": scores.count(None)}
    marked = marks_of(marks, rows) if marks.exists() else {}
    return head | compared([by_name[row["id"]] for row in rows], rows, scores, marked, told_at_all=before["mean"] is not None)


def numbers(name: str, facts: Mapping[str, Any]) -> dict[str, float]:
    """What a run's record has of a judge: `<set>/judge_n`, `_mean`, `_agreement` and the ends of their intervals; no number of nothing."""
    if facts["mean"] is None:
        return {}
    told_of = {key: value for key, value in facts.items() if key in ("n", "n_person") or isinstance(value, float)}
    return {f"{name}/judge_{key}": float(value) for key, value in told_of.items()}


def request(question: Question, reply: str, service: Service) -> Request:
    """The request for one verdict."""
    correct = "\0".join(prompt.correct(question))
    kept_under = ("judge", str(prompt.VERSION), service.llm.model, question.text, correct, reply)
    return Request(question.name, (prompt.text(question, reply),), service.llm, kept_under=kept_under)


def score(verdict: Answer) -> int | None:
    """What a verdict says; None: it is none."""
    return prompt.score(verdict.text) if verdict.state is State.answered else None


def is_verdict(answer: Answer) -> bool:
    """Whether it has been judged."""
    return score(answer) is not None


def ask(requests: Sequence[Request], service: Service, kept: Store, report: Report) -> Exception | None:
    """Ask for what has no verdict, in an order drawn by lot, so that what a limit leaves is no chosen part; return what ended it early."""
    missing = [one for one in requests if (found := kept.answer(one.key)) is None or not is_verdict(found)]
    missing.sort(key=lambda one: text_hash("order", one.key))
    stop, client = threading.Event(), Client(service)
    try:
        asker = Asker(service, kept, client, Meter(service, kept, stop), stop, good=is_verdict)
        for _ in range(TRIES):
            found, ended = ask_all([maker(one) for one in missing], asker, report, "judging") if missing else ({}, None)
            if ended is not None:
                return ended
            missing = [missing[at] for at, answer in sorted(found.items()) if not is_verdict(answer) and answer.state is not State.failed]
    finally:
        client.close()
    return None


def maker(one: Request) -> Callable[[], Request]:
    """What makes a request when its turn comes."""
    return lambda: one


def compared(
    questions: Sequence[Question], rows: Sequence[Mapping[str, Any]], scores: Sequence[int | None], marks: Mapping[str, int], told_at_all: bool
) -> dict[str, Any]:
    """n, mean, agreement with the exact rule and with a person, each with its 95 % interval over clusters of questions on a picture.

    told_at_all: no number where the provider broke off. None, never 0, stands for a number of nothing.
    """  # fmt: skip
    judged = [at for at, given in enumerate(scores) if given is not None]
    found: dict[str, Any] = {"n": len(judged), "mean": None, "agreement": None}
    if not judged or not told_at_all:
        return found
    given, exact = np.array([scores[at] for at in judged]), np.array([rows[at]["score"] >= RIGHT for at in judged])
    cluster = np.unique([questions[at].cluster for at in judged], return_inverse=True)[1]
    found |= told("mean", shares(given.astype(np.float64)), cluster)
    found |= told("agreement", shares((given == exact).astype(np.float64)), cluster)
    both = [place for place, at in enumerate(judged) if rows[at]["id"] in marks]
    if both:
        person = np.array([marks[rows[judged[place]]["id"]] for place in both])
        found["n_person"] = len(both)
        for name, other in (("agreement_with_person", given[both]), ("exact_agreement_with_person", exact[both])):
            found |= told(name, shares((other == person).astype(np.float64)), cluster[both])
    return found


def lines(facts: Mapping[str, Any]) -> list[str]:
    """What the judge says, for a person."""
    head = f"judge {facts['model']} (prompt version {facts['prompt_version']}): n={facts['n']}, {facts['waiting']} not judged"
    names = ("mean", "agreement", "agreement_with_person", "exact_agreement_with_person")
    shown = [f"  {name} {facts[name]:.4f}{within(facts, name)}" for name in names if facts.get(name) is not None]
    return [head, *shown]


def within(facts: Mapping[str, Any], name: str) -> str:
    """The interval behind a number, where it has one."""
    return f" [{facts[f'{name}_low']:.4f}, {facts[f'{name}_high']:.4f}]" if f"{name}_low" in facts else ""
