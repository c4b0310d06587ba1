"""What is done before arms begin, so that each finds it done: beside the computation of features, and before arms are forked."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable, Sequence

from lab.config import Experiment, trains
from lab.host.garbage import importing
from lab.run.accounting import costs
from lab.run.facts import versions
from lab.run.memory import checkpointing_choice
from lab.run.planned import look_at_machine, planned
from lab.run.sharing import Prepared, encoding_key, try_out


def beside_features(experiments: Sequence[Experiment], prepared: Prepared) -> None:
    """Import what arms need and features do not, try their adapters out, and count what a step keeps; of those encoded as the first is.

    Raises as `try_out` does, for whichever arm it is of.
    """
    with importing():
        for name in ("lab.training.loop", "peft") if any(map(trains, experiments)) else ():
            importlib.import_module(name)
    key = encoding_key(experiments[0])
    for x in (x for x in experiments if encoding_key(x) == key):
        if trains(x):
            look_at_machine(x)  # which arms beside each other would see slower than it is
        try_out(x, prepared)
        checkpointing_choice(x, prepared)


def warm(experiments: Iterable[Experiment], prepared: Prepared) -> None:
    """Do once what every arm would, so that arms forked from this process find it done."""
    with importing():
        importlib.import_module("lab.training.loop")
        importlib.import_module("lab.evaluation.watching")
        with contextlib.suppress(ImportError):  # it is no need of ours
            import pandas  # noqa: F401 (pyarrow imports it with its first table)
    versions()
    kinds: dict[str, list[Experiment]] = {}
    for x in experiments:
        kinds.setdefault(repr((x.model, x.data, x.lora, x.prompt, x.vision_tokens, x.conditioning)), []).append(x)
    for alike in kinds.values():
        if len(alike) > 1:  # an arm of a kind of its own counts beside the others
            costs(alike[0], prepared)
            planned(alike[0], prepared, checkpointing_choice(alike[0], prepared))
