"""One curation from its config to the folder: choose, ask, read, judge, write. What was asked before is not asked again."""

from __future__ import annotations

import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab.curation import card, manifest, parsing, preview, quality, request, review, selection, sources
from lab.curation.catalogue import Catalogue, Refusal, counts
from lab.curation.config import Curation
from lab.curation.selection import Choice, Chosen
from lab.errors import DataError
from lab.host.files import write_atomically
from lab.host.progress import Report, bars
from lab.host.stopping import Stopped, limited, stoppable
from lab.llm import client, store
from lab.llm.asking import Asker, ask_all
from lab.llm.limits import Meter, exit_code
from lab.llm.request import Request
from lab.llm.store import Answer, State, Store

log = logging.getLogger(__name__)

NO_ANSWER, NO_QUESTION = "no answer", "no question"
MARK = "answers.sqlite"
"""By which a folder is known as one of this command's."""


def curate(config: Curation, started: float) -> int:
    """Do what is missing, and write what there is; return the exit code. started: Unix time, from which `limits.max_time` counts."""
    folder = Path(config.to)
    if folder.exists() and not (folder.is_dir() and ((folder / MARK).is_file() or not any(folder.iterdir()))):
        raise DataError(f"to={folder}: it holds files that lab.curate did not make, and nothing is overwritten unasked. Name another folder.")
    report = bars()
    catalogue = sources.read(config)
    choice = selection.choose(catalogue, config, report)
    say(f"{catalogue.name}: {len(choice.chosen)} products chosen of {len(catalogue.products) + len(catalogue.refusals)} listings")
    with store.opened(folder / MARK) as kept, stoppable(), limited(config.limits.max_time, "limits.max_time", started):
        work = Work(config, catalogue, choice, kept, report)
        try:
            ended = work.ask()
        except (Stopped, KeyboardInterrupt):
            work.write(folder)
            raise
        if work.ends_with_preview:
            return 0
        return exit_code(ended, work.write(folder))


@dataclass
class Work:
    """A curation at work. found, keys: answers, and what they are kept under, by product."""

    config: Curation
    catalogue: Catalogue
    choice: Choice
    store: Store
    report: Report
    found: dict[str, Answer] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    ends_with_preview: bool = False

    def ask(self) -> Exception | None:
        """Ask what has not been asked; return what ended it early."""
        stop = threading.Event()
        meter = Meter(self.config.service, self.store, stop)
        speaking = client.Client(self.config.service)
        asker = Asker(self.config.service, self.store, speaking, meter, stop)
        chosen = list(self.choice.chosen)
        try:
            if self.config.preview != "false":
                first = chosen[: preview.PICTURES]
                ended = self.ask_about(first, asker, "preview")
                if ended is not None:
                    return ended
                self.ends_with_preview = not self.goes_on(first, chosen[len(first) :], meter)
                if self.ends_with_preview:
                    return None
            return self.ask_about(chosen, asker, "asking")
        finally:
            speaking.close()

    def ask_about(self, chosen: Sequence[Chosen], asker: Asker, stage: str) -> Exception | None:
        """Ask about some products; return what ended it early."""
        found, ended = ask_all([self.maker(one) for one in chosen], asker, self.report, stage)
        self.found |= {chosen[at].product.name: answer for at, answer in found.items()}
        return ended

    def maker(self, one: Chosen) -> Callable[[], Request]:
        """What makes the request about a product, in the thread that sends it."""
        return lambda: request.of(one.product, self.catalogue, self.config)

    def key(self, one: Chosen) -> str:
        """What the answer about a product is kept under."""
        if one.product.name not in self.keys:
            self.keys[one.product.name] = self.maker(one)().key
        return self.keys[one.product.name]

    def goes_on(self, first: Sequence[Chosen], others: Sequence[Chosen], meter: Meter) -> bool:
        """Print the preview; whether the rest is to be asked."""
        keys = [self.key(one) for one in first]
        usages = [usage for key in keys if (usage := self.store.usage(key)) is not None]
        remaining = sum(self.store.answer(self.key(one)) is None for one in others)
        if usages and remaining:
            tries = [self.store.tries(key) for key in keys]
            print("\n".join(preview.lines(usages, tries, remaining, meter.cost, self.config)), flush=True)
        if self.config.preview == "only":
            return False
        if remaining and sys.stdin.isatty() and sys.stderr.isatty():
            return input("go on? [Y/n] ").strip().lower() in ("", "y", "yes")
        return True

    def write(self, folder: Path) -> int:
        """Write all that the folder holds from the answers that are there; return how many products lack one."""
        config, chosen = self.config, self.choice.chosen
        for one in chosen:
            if one.product.name not in self.found and (kept := self.store.answer(self.key(one))) is not None:
                self.found[one.product.name] = kept
        judged = {
            one.product.name: quality.judge(parsing.parse(answer.text, answer.state is State.cut), one.product.attributes, config.quality)
            for one in chosen
            if (answer := self.found.get(one.product.name)) is not None and answer.state in (State.answered, State.cut)
        }
        balanced = quality.balance(judged, {one.product.name: one.split for one in chosen}, config.quality, config.curation.seed)
        rows, refused = manifest.entries(chosen, balanced)
        rows, dropped, notes = review.decided(rows, config)
        refusals = [*self.choice.refusals, *self.without_questions({row.listing for row in rows}), *refused, *dropped]
        manifest.write(folder, rows, refusals, chosen, self.catalogue)
        states = Counter(answer.state for answer in self.found.values())
        lacking = len(chosen) - len(self.found) + states[State.failed]
        if config.review.pictures:
            write_atomically(folder / "review.html", review.page(chosen, rows, refusals, self.catalogue, config))
        write_atomically(folder / "README.md", card.text(rows, refusals, states, lacking, self.catalogue, config, self.store.totals()))
        splits = Counter(row.split for row in rows)
        for_each = ", ".join(f"{split} {splits[split]}" for split in reversed(selection.SPLITS.values()))
        left_out = "; ".join(f"{reason} {number}" for reason, number in counts(refusals).items()) or "nothing"
        say(*self.choice.notes, *notes, f"{len(rows)} questions ({for_each}): {folder / manifest.MANIFEST}")
        say(f"left out: {left_out}: {folder / manifest.REFUSED}")
        if lacking:
            say(f"{lacking} of {len(chosen)} products have no answer yet; the same command asks for them")
        elif rows:
            page = f"look through {folder / 'review.html'}, then " if config.review.pictures else ""
            say(f"next: {page}python -m lab.train data=abo_vqa data.path={folder / manifest.MANIFEST}")
        return lacking

    def without_questions(self, asked: set[str]) -> list[Refusal]:
        """Products that gave nothing: not asked yet, failed, filtered, empty, or of whose lines none was good."""
        refusals: list[Refusal] = []
        for one in self.choice.chosen:
            name, answer = one.product.name, self.found.get(one.product.name)
            if answer is None or answer.state is State.failed:
                detail = answer.detail if answer else "not asked yet"
                refusals.append(Refusal(NO_ANSWER, name, one.product.picture.source, detail=detail))
            elif answer.state in (State.filtered, State.empty):
                refusals.append(Refusal(f"answer {answer.state.value}", name, one.product.picture.source, detail=answer.detail))
            elif name not in asked:
                refusals.append(Refusal(NO_QUESTION, name, one.product.picture.source, detail="no line of the answer was good"))
        return refusals


def say(*lines: str) -> None:
    """Lines of the result."""
    print(*lines, sep="\n", flush=True)
