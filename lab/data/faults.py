"""A bad record or image, and what is done about all of them together: one error, or a list of what was left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lab.config import OnBad
from lab.errors import DataError
from lab.records import Skipped

SHOWN = 5
"""How many bad records an error names before it only counts."""


class BadRecord(DataError):
    """One bad record or image. source: `file`, `file:line` or `table#row`; reason: the rest of the sentence."""

    def __init__(self, source: str, reason: str = "") -> None:
        super().__init__(source, reason)
        self.source = source
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}" if self.reason else self.source


def shown(value: Any, most: int = 80) -> str:
    """Return `repr(value)`, cut to `most` characters and safe to print, for a message about untrusted input."""
    text = ascii(value)
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def not_unicode(text: str) -> str:
    """What is wrong with a text that holds half of a character; "" of any other."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return f"{shown(text)} is not valid Unicode (a lone surrogate)"
    return ""


def raise_or_skip(faults: Sequence[BadRecord], on_bad: OnBad) -> tuple[Skipped, ...]:
    """Raise one `DataError` over all `faults` under `data.on_bad=fail`; return them as skipped under `skip`."""
    if on_bad is OnBad.skip:
        return tuple(Skipped(fault.source, fault.reason) for fault in faults)
    distinct = list(dict.fromkeys(str(fault) for fault in faults))
    if not distinct:
        return ()
    named = "\n".join(f"  {text}" for text in distinct[:SHOWN])
    rest = f"\n  and {len(distinct) - SHOWN} more" if len(distinct) > SHOWN else ""
    raise DataError(
        f"data.on_bad=fail: bad records and images: {len(distinct)}.\n{named}{rest}\n"
        "Repair them, or set data.on_bad=skip to leave them out and have each one listed with the run."
    )
