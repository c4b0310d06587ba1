"""python -m lab.plan [KEY=VALUE ...]: what a comparison could see and what it would cost, before it is run.

No weights are loaded. Exit code 2 if the experiment cannot fit the device.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lab.cli import compose, run_cli, set_up_logging
from lab.errors import ConfigError, DataError

if TYPE_CHECKING:
    from lab.config import Experiment
    from lab.costs.planning import Plan
    from lab.records import Splits

DISCORDANCES = (0.05, 0.10, 0.20)
GUESS = 256
ICC = 0.05
"""Assumed correlation of d = correct_A - correct_B within a cluster; a report measures it afterwards."""


def main() -> None:
    """Command-line entry point."""
    parser = argparse.ArgumentParser(prog="python -m lab.plan", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as in lab.train; one experiment")
    parser.add_argument("-cn", "--config-name", default="train", help="a sweep of sweeps/, planned at its defaults")
    parser.add_argument("--device", default="h200", help="h200, h100, a100, l40s, rtx4090, t4")
    parser.add_argument("--arms", type=int, default=3, help="arms of the sweep, for its time")
    parser.add_argument("--text-tokens", type=int, default=70, help="tokens of a prompt without its images")
    parser.add_argument("--tokens-per-image", type=int, help="default: vision_tokens.budget, else measured")
    given = parser.parse_args()
    set_up_logging()
    sys.exit(run_cli(lambda: act(given)))


def act(given: argparse.Namespace) -> int:
    """Compose, count and print."""
    from lab.sweeping.launcher import register

    register()
    x = compose(given.overrides, given.config_name)
    splits = data_of(x)
    print(visible(splits))
    tokens, how = tokens_per_image(x, given, splits)
    sizes = (None, 2) if splits is None else (len(splits.train), len(splits.dev.index(0).images))
    print(cost(x, given, tokens, *sizes) + how)
    return 0


def data_of(x: Experiment) -> Splits | None:
    """The data as the experiment would use them, if they are here; a plan can do without."""
    from lab import data
    from lab.config import trains
    from lab.costs import planning
    from lab.training.screening import screen

    try:
        splits = data.load(x.data, Path(x.tracking.cache_dir))
        encoder = planning.encoder_of(x)
        parts = ("train", "minival", "dev") if trains(x) else ("minival", "dev")
        return splits if encoder is None else screen(splits, parts, encoder, x.data)[0]
    except DataError as error:
        print(f"The data are not here or not usable, so nothing is said of what a comparison could see: {error}", file=sys.stderr)
        return None


def visible(splits: Splits | None) -> str:
    """The smallest difference between two arms that dev could show, for stated assumptions."""
    if splits is None:
        return ""
    import numpy as np

    from lab.statistics.metrics import KINDS
    from lab.statistics.power_analysis import smallest_detectable
    from lab.statistics.resampling import clusters_of

    dev = [splits.dev.index(i) for i in range(len(splits.dev))]
    cluster = clusters_of(np.array([one.image_set for one in dev]), np.array([one.question_group for one in dev]))
    sizes = np.bincount(cluster).tolist()
    lines = [
        f"dev: {len(splits.dev):,} examples in {len(sizes):,} clusters; train: {len(splits.train):,}"
        + (f"; left out under data.on_bad=skip: {len(splits.skipped):,}" if splits.skipped else ""),
        f"smallest difference in {KINDS[splits.kind].main.header} between two arms that is found with 80 % probability at 5 % (two-sided),",
        f"if the arms disagree on so many examples (correlation within a cluster {ICC}):",
    ]
    for share in DISCORDANCES:
        points = 100 * smallest_detectable(len(splits.dev), share, cluster_sizes=sizes, icc=ICC)
        lines.append(f"  {100 * share:4.0f} %  {points:5.2f} points")
    lines.append("Seeds add to it: sweep.replicates=3 (or more) has the report measure the noise floor between them.")
    return "\n".join(lines)


def tokens_per_image(x: Experiment, given: argparse.Namespace, splits: Splits | None) -> tuple[int, str]:
    """Tokens of an image: as asked, as `vision_tokens` budgets, as the processor makes them of dev's first sample; else a guess."""
    from lab.costs import planning

    if asked := given.tokens_per_image or x.vision_tokens.budget:
        return asked, ""
    seen = planning.seen_tokens(x.model, splits.dev[0]) if splits is not None and x.model.path is not None else None
    if seen:
        return seen, f"\ntokens per image: {seen}, as the processor makes them of the first sample of dev"
    return GUESS, f"\ntokens per image: {GUESS} is a guess, as data or processor are not here; say --tokens-per-image N"


def cost(x: Experiment, given: argparse.Namespace, tokens: int, num_train: int | None, images: int = 2) -> str:
    """Parameters per part, memory, FLOPs and floor times. Raises `ConfigError` if the device cannot hold it."""
    from lab import lora
    from lab.costs import planning

    flops, memory = planning.device(given.device)
    found = planning.plan(x, tokens, images=images, text_tokens=given.text_tokens, memory=memory)
    gigabytes = [value / 1e9 for value in (found.weight_bytes, found.adapter_bytes, found.activation_bytes, found.memory_bytes)]
    lines = [
        "",
        lora.ledger_text(found.ledger),
        "",
        f"{found.tokens} tokens an example ({found.image_tokens} per image, {images} image{'' if images == 1 else 's'}, {given.text_tokens} of text)",
        f"memory: weights {gigabytes[0]:.2f} GB, adapters with AdamW {gigabytes[1]:.2f}, activations {gigabytes[2]:.2f} "
        f"(batch {x.trainer.batch_size}), together {gigabytes[3]:.2f} of {memory / 1e9:.0f} GB on {given.device}",
        checkpointing(x, found),
        f"training: {found.train_flops / 1e9:,.1f} GFLOP an example; evaluation: {found.eval_flops / 1e9:,.1f}",
    ]
    if num_train and found.train_flops:
        epoch = num_train * found.train_flops / flops
        lines.append(
            f"floor on {given.device} (every FLOP at the data sheet's rate): {epoch:,.1f} s an epoch of {num_train:,} examples, "
            f"{given.arms * epoch:,.1f} s for {given.arms} arms; expect 2 to 4 times that"
        )
    if found.memory_bytes > memory:
        instead = "" if found.recomputes else ", or set trainer.gradient_checkpointing=null, which is on where it is needed"
        raise ConfigError(
            "\n".join(lines) + f"\nThis does not fit {given.device}. Lower trainer.batch_size and raise "
            f"trainer.accumulate_grad_batches{instead}."
        )
    return "\n".join(lines)


def checkpointing(x: Experiment, found: Plan) -> str:
    """Whether gradient checkpointing is on, and why."""
    if x.trainer.gradient_checkpointing is not None:
        return f"gradient checkpointing: {'on' if found.recomputes else 'off'}, as asked"
    if found.recomputes:
        return f"gradient checkpointing: on, as activations would take {found.plain_bytes / 1e9:.2f} GB without it"
    return "gradient checkpointing: off, as it is not needed"


if __name__ == "__main__":
    main()
