"""What a tracker shows of a run: names, parameters and tags, the same in every tracker.

    arm/...      what arms are compared by, final: the kind's headline with the ends of its interval, ece, latency_p50_ms,
                 trainable_parameters. On MLflow's page this section comes first
    train/..., val/...      curves; val: a look at minival during training
    system/...   curves of the machine
    all others   final numbers under their names in run.json

Final numbers stand at step 0, where MLflow draws bars. One that is no finite number is named in the tag `lab.not_finite` instead.
"""

from __future__ import annotations

import shlex
from typing import Any

from lab.config import TRAINED, flat, identity_values, role
from lab.host.files import values_hash
from lab.statistics.metrics import KINDS, Kind
from lab.store.runs import Run

ARM, SWEEP, REPLACED = "arm", "sweep", "replaced"
"""Values of the tag `lab.role`; replaced: a run that was trained anew since."""
COSTS = {"trainable_parameters": "parameters/trainable", "latency_p50_ms": "latency/p50_ms"}
"""What an arm costs, by the names of its headline; its names in run.json."""


def kind_of(metrics: dict[str, float]) -> Kind | None:
    """The kind of answer that a run's numbers are of: the one that has most of its metrics among them."""
    shared = {name: sum(f"dev/{metric}" in metrics for metric in kind.metrics) for name, kind in KINDS.items()}
    headed = [kind for kind in KINDS.values() if f"dev/{kind.headline}" in metrics]
    return max(headed, key=lambda kind: shared[kind.name], default=None)


def headline(metrics: dict[str, float]) -> dict[str, float]:
    """The `arm/` numbers of a run's own; those that it has."""
    kind = kind_of(metrics)
    if kind is None:
        return {}
    sources = {name: f"dev/{name}" for name in kind.with_interval}
    sources |= {f"{kind.headline}{end}": f"dev/{kind.headline}{end}" for end in ("_low", "_high")}
    sources |= COSTS
    return {f"{ARM}/{name}": metrics[source] for name, source in sources.items() if source in metrics}


def final(run: Run) -> dict[str, float]:
    """All numbers that a run has in the end, by name."""
    return headline(run.metrics) | run.metrics


def curve_name(key: str) -> str:
    """The name of a curve: a look at minival during training is not what the final weights say of it."""
    dataset, slash, name = key.rpartition("/")
    return f"{'val' if dataset == 'minival' else dataset}/{name}" if slash else f"train/{key}"


def parameters(config: dict[str, Any]) -> dict[str, str]:
    """What made the weights, as dotted keys; what was left out (null, an empty list) has no row."""
    return {key: str(value) for key, value in flat(config).items() if role(key) == TRAINED and value not in (None, [], {})}


def replicate_group(config: dict[str, Any]) -> str:
    """Equal for runs that differ in nothing but their seed."""
    return values_hash({key: value for key, value in identity_values(config).items() if key != "seed"}, 8)


def name_of(run: Run) -> str:
    """What tells a run from others: the differing dials of its sweep, else the overrides that it was asked for by."""
    if run.name != run.identity:
        return run.name
    try:
        words = shlex.split(run.command)
    except ValueError:  # a record may hold any text
        return run.identity
    return " ".join(word for word in words if "=" in word and not word.startswith(("tracking.", "-"))) or run.identity
