"""How long work shows itself: stages call a `Report`, and who listens decides what a person sees."""

from __future__ import annotations

from collections.abc import Callable

from tqdm import tqdm

Report = Callable[[str, int, int, str], None]
"""Called as report(stage, done, total, note): `done` of `total` units of `stage`; the note stands beside the bar."""


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Show nothing."""


def bars() -> Report:
    """One bar a stage with rate and time left, on standard error."""
    shown: dict[str, tqdm] = {}

    def report(stage: str, done: int, total: int, note: str = "") -> None:
        if stage not in shown:
            shown[stage] = tqdm(total=total, desc=stage, unit="", leave=True, mininterval=0.5)
        bar = shown[stage]
        if note:
            bar.set_postfix_str(note, refresh=False)
        bar.update(done - bar.n)
        if done >= total:
            shown.pop(stage).close()

    return report
