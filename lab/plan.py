"""lab plan [KEY=VALUE ...] [-m]: what a comparison could see and what it would cost, before it is run.

No weights are loaded. Exit code 2 if the experiment cannot fit the device.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lab import paths, services
from lab.cli import bounded, compose, program, run_cli, set_up_logging
from lab.errors import ConfigError, DataError

if TYPE_CHECKING:
    from lab.config import Experiment
    from lab.costs.planning import Plan
    from lab.records import Splits
    from lab.run.forecast import Forecast

DISCORDANCES = (0.05, 0.10, 0.20)
GUESS = 256
ICC = 0.05
"""Assumed correlation of d = correct_A - correct_B within a cluster; a report measures it afterwards."""


DESCRIPTION = """What a comparison could see, and what it would take in time, memory and money, before it is run. No weights are loaded.
Exit code 2 if an experiment cannot fit the device."""


def main() -> None:
    """Command-line entry point."""
    parser = argparse.ArgumentParser(prog=program("lab.plan"), description=DESCRIPTION)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as in lab train")
    parser.add_argument("-m", "--multirun", action="store_true", help="a sweep: each arm, and all together")
    parser.add_argument("-cn", "--config-name", default="train", metavar="SWEEP", help="a sweep of sweeps/")
    parser.add_argument("--device", default="h200", help="here (this machine, looked at), h200, h100, a100, l40s, 4090, t4 (default: h200)")
    parser.add_argument("--price-per-hour", type=bounded(float, 0), metavar="PRICE", help="of the device, for what the training costs in money")
    parser.add_argument("--examples", type=bounded(int, 1), metavar="N", help="of train, where data are not here and trainer.max_epochs counts them")
    parser.add_argument("--json", type=paths.argument, metavar="FILE", help="write the figures as JSON too")
    parser.add_argument("--force", action="store_true", help="overwrite FILE")
    parser.add_argument("--arms", type=bounded(int, 1), default=3, metavar="N", help="without -m: arms of the sweep, for its time (default: 3)")
    parser.add_argument("--text-tokens", type=bounded(int, 1), metavar="N", help="tokens of a prompt without its images (default: measured, else 70)")
    parser.add_argument("--tokens-per-image", type=bounded(int, 1), metavar="N", help="default: vision_tokens.budget, else measured")
    given = parser.parse_intermixed_args()
    set_up_logging()
    sys.exit(run_cli(lambda: act(given)))


def act(given: argparse.Namespace) -> int:
    """Compose, count and print."""
    from lab.config import identity
    from lab.run.forecast import words_of
    from lab.sweeping.launcher import register

    check_flags(given)
    register()
    if given.multirun or given.config_name != "train":
        return plan_sweep(given)
    x = compose(given.overrides, given.config_name)
    services.require_weights(x.model.family)
    splits = data_of(x)
    print(visible(splits))
    tokens, how = tokens_per_image(x, given, splits)
    if x.sweep.race is not None:
        print(race(x, given.arms, splits))
    sizes = (None, 2) if splits is None else (epoch_of(splits), len(splits.dev.index(0).images))
    if given.text_tokens is None:
        given.text_tokens = words_of(x, splits).prompt
    made = forecast([(identity(x), x)], given, {repr(x.data): splits})
    print(cost(x, given, tokens, *sizes, found=made.arms[0].found) + how)
    print(made.describe())
    write(given, made)
    return 0


def plan_sweep(given: argparse.Namespace) -> int:
    """Print what each arm of a sweep costs, and all together. Raises `ConfigError` if the device cannot hold one."""
    from lab.costs.timing import short
    from lab.sweeping.arms import arm_name, differing
    from lab.sweeping.launcher import foreseen

    experiments = [arm.experiment for arm in foreseen(given.overrides, given.config_name)]
    dials = differing(experiments)
    data: dict[str, Splits | None] = {}
    rows, too_large = [("arm", "trainable", "memory, GB", "GFLOP an example", "training, s")], []
    for x in experiments:
        services.require_weights(x.model.family)
        if repr(x.data) not in data:
            data[repr(x.data)] = splits = data_of(x)
            print(visible(splits), end="\n\n")
    made = forecast([(arm_name(x, dials), x) for x in experiments], given, data)
    for one in made.arms:
        too_large += [one.name] if one.found.memory_bytes > one.memory else []
        trainable = sum(row.trainable for row in one.found.ledger)
        seconds = "unknown" if one.time is None else short(one.time.train.expected)
        rows.append((one.name, f"{trainable:,}", f"{one.found.memory_bytes / 1e9:.2f}", f"{one.found.train_flops / 1e9:,.1f}", seconds))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for name, *numbers in rows:
        print("  ".join([name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True))]))
    total = made.train
    seconds = f", together {short(total.expected)} s on {given.device} ({short(total.low)} to {short(total.high)})" if made.known else ""
    print(f"\n{len(experiments)} arms{seconds}")
    print(made.describe())
    if racing := [x for x in experiments if x.sweep.race is not None]:
        print(race(racing[0], len(experiments), data[repr(racing[0].data)]))
    if too_large:
        raise ConfigError(
            f"{', '.join(too_large)}: this does not fit {given.device}. Lower trainer.batch_size and raise trainer.accumulate_grad_batches."
        )
    write(given, made)
    return 0


def forecast(named: list[tuple[str, Experiment]], given: argparse.Namespace, data: dict[str, Splits | None]) -> Forecast:
    """What arms take on the device. data: by their dial."""
    from lab.run import forecast as of

    experiments = [x for _, x in named]
    on = [of.device_of(given.device, x) for x in experiments]
    arms = []
    for (name, x), device in zip(named, on, strict=True):
        splits = data[repr(x.data)]
        tokens, _ = tokens_per_image(x, given, splits)
        arms.append(of.arm(name, x, device, splits, tokens, given.text_tokens, vars(given).get("examples")))
    machines = {device.machine.describe(): device.machine for device in on}
    return of.Forecast(given.device, list(machines.values()), arms, of.at_once(given.device, experiments), vars(given).get("price_per_hour"))


def check_flags(given: argparse.Namespace) -> None:
    """Raise a `ConfigError` for a device that there is not, and a file that would be overwritten unasked."""
    from lab.costs import machines

    if given.device != machines.HERE:
        machines.sheet(given.device)
    path = vars(given).get("json")
    if path is not None and path.exists() and not given.force:
        raise ConfigError(f"--json {path}: the file is there already. Give another name, or --force to overwrite it.")


def write(given: argparse.Namespace, made: Forecast) -> None:
    """Write the figures as one JSON object, where a file is given."""
    path = vars(given).get("json")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(made.facts(), indent=1) + "\n", encoding="utf-8")
        print(f"written to {path}")


def epoch_of(splits: Splits) -> int:
    """Examples of an epoch."""
    from lab.training.ordering import places

    return sum(places(splits.sources)) or len(splits.train)


def data_of(x: Experiment) -> Splits | None:
    """The data as the experiment would use them, if they are here; a plan can do without."""
    from lab import data
    from lab.config import trains
    from lab.costs import without_weights
    from lab.training.screening import screen

    try:
        splits = data.load(x.data, Path(x.tracking.cache_dir))
        encoder = without_weights.encoder_of(x)
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
    from lab.statistics.resampling import clusters_of_samples

    sizes, main = np.bincount(clusters_of_samples([splits.dev.index(i) for i in range(len(splits.dev))])).tolist(), KINDS[splits.kind].main.header
    left_out = f"; left out under data.on_bad=skip: {len(splits.skipped):,}" if splits.skipped else ""
    lines = [f"dev: {len(splits.dev):,} examples in {len(sizes):,} cluster{'s' * (len(sizes) != 1)}; train: {len(splits.train):,}{left_out}"]
    if len(sizes) < 2:
        lines.append(
            f"how large a difference in {main} is found between two arms is not known beforehand: all examples of dev share images or questions. "
            "More of them (data.num_dev) lie in more clusters."
        )
        return "\n".join(lines)
    lines += [
        f"smallest difference in {main} between two arms that is found with 80 % probability at 5 % (two-sided),",
        f"if the arms disagree on so many examples (correlation within a cluster {ICC}):",
    ]
    for share in DISCORDANCES:
        points = 100 * smallest_detectable(len(splits.dev), share, cluster_sizes=sizes, icc=ICC)
        lines.append(f"  {100 * share:4.0f} %  {points:5.2f} points")
    lines.append("Seeds add to it: sweep.replicates=3 (or more) has the report measure the noise floor between them.")
    return "\n".join(lines)


def race(x: Experiment, num_arms: int, splits: Splits | None) -> str:
    """What the questions of a race cost, of which at least as much must be saved."""
    from lab.store.races import FORWARDS

    number = x.data.num_minival if splits is None else len(splits.minival)
    if number is None or not x.trainer.max_steps:
        return "race: what its questions cost is not known, as minival or trainer.max_steps is not"
    rungs, trained = len(x.race.rungs), x.trainer.max_steps * x.trainer.samples_per_step
    return (
        f"race: {number:,} questions at each of {rungs} rungs, {rungs * number * num_arms:,} forward passes for {num_arms} arms at most: as much "
        f"as {100 * rungs * number / FORWARDS / trained:.1f} % of their training (a trained sample is {FORWARDS} forward passes)"
    )


def tokens_per_image(x: Experiment, given: argparse.Namespace, splits: Splits | None) -> tuple[int, str]:
    """Tokens of an image: as asked, as `vision_tokens` budgets, as the processor makes them of dev's first sample; else a guess."""
    from lab.costs import without_weights

    if asked := given.tokens_per_image or x.vision_tokens.budget:
        return asked, ""
    seen = without_weights.seen_tokens(x.model, splits.dev[0]) if splits is not None else None
    if seen:
        return seen, f"\ntokens per image: {seen}, as the processor makes them of the first sample of dev"
    return GUESS, f"\ntokens per image: {GUESS} is a guess, as data or processor are not here; say --tokens-per-image N"


def cost(x: Experiment, given: argparse.Namespace, tokens: int, num_train: int | None, images: int = 2, found: Plan | None = None) -> str:
    """Parameters per part, memory, FLOPs and floor times. Raises `ConfigError` if the device cannot hold it. found: the plan, if it is made."""
    from lab import lora
    from lab.costs import planning
    from lab.run.forecast import TEXT_TOKENS, device_of

    device, text = device_of(given.device, x), given.text_tokens or TEXT_TOKENS
    memory = device.memory
    found = found or planning.plan(x, tokens, images=images, text_tokens=text, memory=memory)
    lines = [
        "",
        lora.ledger_text(found.ledger),
        "",
        *([f"{found.counts.questions} questions of a picture stand in one row"] if found.counts.questions > 1 else []),
        f"{found.tokens} tokens an example ({found.image_tokens} per image, {images} image{'' if images == 1 else 's'}, {text} of text)",
        memory_table(x, found, memory, given.device),
        checkpointing(x, found),
        f"training: {found.train_flops / 1e9:,.1f} GFLOP an example; evaluation: {found.eval_flops / 1e9:,.1f}",
    ]
    if num_train and found.train_flops:
        epoch = num_train * found.train_flops / device.flops
        lines.append(
            f"floor on {given.device} (every FLOP at its highest rate): {epoch:,.1f} s an epoch of {num_train:,} examples, "
            f"{given.arms * epoch:,.1f} s for {given.arms} arms"
        )
    if found.memory_bytes > memory:
        instead = "" if found.recomputes else ", or set trainer.gradient_checkpointing=null, which is on where it is needed"
        raise ConfigError(
            "\n".join(lines) + f"\nThis does not fit {given.device}. Lower trainer.batch_size and raise "
            f"trainer.accumulate_grad_batches{instead}."
        )
    return "\n".join(lines)


def memory_table(x: Experiment, found: Plan, memory: float, device: str) -> str:
    """What a step of training keeps, and what writing one answer does; GB."""
    quantised = "" if x.model.quantisation.value == "none" else f", blocks in {x.model.quantisation.value}"
    of = f", a share of {found.shares}" if found.shares > 1 else ""
    rows = [
        ("weights", found.weight_bytes / found.shares, f"{x.model.dtype.value}{quantised}{of}"),
        ("trains", found.adapter_bytes / found.shares, f"adapters and whole parts, float32{of}"),
        ("gradients", found.gradient_bytes / found.shares, f"float32{of}"),
        (f"optimizer ({x.optim.optimizer})", found.optimizer_bytes / found.shares, f"its state{of}"),
        *([("gathered", found.gathered_bytes, "whole at once, with gradients: all but blocks, and two blocks")] if of else []),
        ("activations", found.activation_bytes, f"of {x.trainer.batch_size // x.trainer.devices} examples"),
        ("training", found.memory_bytes, f"together, of {memory / 1e9:.0f} on {device}"),
        ("inference", found.inference_bytes, "weights, adapters, keys and values of one answer"),
    ]
    return "\n".join(["memory, GB", *(f"  {name:<26}{size / 1e9:8.2f}  {what}" for name, size, what in rows)])


def checkpointing(x: Experiment, found: Plan) -> str:
    """Whether gradient checkpointing is on, and why."""
    if x.trainer.gradient_checkpointing is not None:
        return f"gradient checkpointing: {'on' if found.recomputes else 'off'}, as asked"
    if found.recomputes:
        return f"gradient checkpointing: on, as activations would take {found.plain_bytes / 1e9:.2f} GB without it"
    return "gradient checkpointing: off, as it is not needed"


if __name__ == "__main__":
    main()
