"""What all trackers have in common: run folders are delivered as often as one likes, and one that is away costs no run."""

from __future__ import annotations

import logging
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lab.config import Tracking
from lab.errors import LabError
from lab.host.redaction import without_secrets

log = logging.getLogger(__name__)


class Delivery(ABC):
    """Delivers run folders of one `runs_dir` to one tracker. A tracker that is away is told of once and costs no run.

    away: why it gave no answer to the last delivery, or None. user_knows: of it. strange: what was said of files that
    cannot be read.
    """

    title: str

    def __init__(self, section: Tracking) -> None:
        self.section = section
        self.runs_dir = Path(section.runs_dir)
        self.away: str | None = None
        self.user_knows = False
        self.strange: set[str] = set()

    def deliver(self, identity: str, check: bool = False) -> bool:
        """Bring the tracker up to date with a run folder; False if it is away or refuses (said once).

        check: look whether what was delivered earlier is still there, and deliver all of it again if it is not.
        """
        return self.attempt(lambda: self.bring(identity, check))

    @abstractmethod
    def bring(self, identity: str, check: bool) -> None:
        """The same; raises what the tracker's client does."""

    @abstractmethod
    def failures(self) -> tuple[type[Exception], ...]:
        """What the tracker's client raises where the tracker is away or refuses."""

    @abstractmethod
    def refused(self, error: Exception) -> bool:
        """Whether the tracker has answered, and said no."""

    @property
    @abstractmethod
    def address(self) -> str:
        """Where the tracker is, as a sentence names it."""

    def deliver_all(self, identities: Sequence[str], check: bool = False) -> int:
        """Bring the tracker up to date with several runs; return how many are. Ends where no answer comes."""
        done = 0
        for identity in identities:
            done += self.deliver(identity, check)
            if self.away is not None:
                break
        return done

    def attempt(self, act: Callable[[], Any]) -> bool:
        """Do something with the tracker; False, and said once, where it is away or refuses."""
        if not self.section.enabled:
            return True
        self.away = None
        try:
            act()
        except LabError as error:  # of a file of a run folder; the tracker has nothing to do with it
            if str(error) not in self.strange:
                log.warning("%s It is not delivered.", error)
            self.strange.add(str(error))
            return False
        except self.failures() as error:
            refused = self.refused(error)
            self.tell(error, "refuses a record" if refused else "does not answer")
            self.away = None if refused else str(error)
            return False
        return True

    def tell(self, error: Exception, what: str) -> None:
        """Say once that the tracker is away or refuses, and that nothing is lost."""
        if not self.user_knows:
            reason = without_secrets(str(error)).strip().split("\n")[0][:300]
            where = "" if self.section.runs_dir == "runs" else f" --runs-dir {shlex.quote(self.section.runs_dir)}"
            log.warning(
                "%s at %s %s (%s). Nothing is lost: runs are kept in %s, and what is missing is delivered as soon as it can "
                "be, or by `python -m lab.sync%s`.", self.title, self.address, what, reason, self.runs_dir, where,
            )  # fmt: skip
        self.user_knows = True
