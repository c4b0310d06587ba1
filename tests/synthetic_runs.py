"""Run folders made up on the spot, written through `lab.store.runs` and `lab.answers.predictions` as a real run writes them."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import box_tables
import numpy as np

from lab.answers import predictions
from lab.records import Choice, Prediction, Scored
from lab.statistics.metrics import summarise
from lab.statistics.summary import of_split
from lab.store import curve_files, runs
from lab.store.runs import Run, Sweep

CONFIG: dict[str, Any] = {
    "model": {"name": "tiny", "dtype": "float32"},
    "data": {"name": "pairs", "seed": 0},
    "lora": {"name": "llm", "r": 8, "lora_alpha": 16, "where": ["llm"]},
    "prompt": {"name": "declarative"},
    "vision_tokens": {"name": "native", "budget": None},
    "conditioning": {"name": "prefix"},
    "optim": {"lr": 2e-3},
    "trainer": {"max_steps": 300, "max_epochs": None, "batch_size": 16, "threads": 1},
    "evaluation": {"batch_size": 64, "bootstrap": 2000},
    "tracking": {"runs_dir": "runs", "cache_dir": "cache", "experiment": "lab", "uri": None, "enabled": True},
    "seed": 0,
}
FAMILIES = ("attribute", "comparison", "counting", "location")


@dataclass(frozen=True)
class Questions:
    """What every arm is asked: hardness and label per example, `per_set` statements in pairs on each image set."""

    name: str
    label: np.ndarray
    hardness: np.ndarray
    image_set: np.ndarray

    @classmethod
    def draw(cls, name: str, num: int, per_set: int = 7, seed: int = 0) -> Questions:
        generator = np.random.default_rng([seed, num])
        image_set = np.arange(num) // per_set
        mood = generator.normal(0, 0.6, image_set.max() + 1)
        return cls(name, generator.random(num) < 0.51, mood[image_set] + generator.normal(0, 1, num), image_set)


def answers(questions: Questions, skill: float, sharpness: float = 1.0, tokens: int = 196, seed: int = 0) -> list[Prediction]:
    """Predictions whose accuracy grows with `skill` and whose overconfidence grows with `sharpness`."""
    generator = np.random.default_rng([seed, int(1000 * skill), len(questions.label)])
    margin = skill - questions.hardness + generator.normal(0, 1, len(questions.label))
    log_odds = sharpness * np.where(questions.label, margin, -margin)
    mass = np.clip(generator.beta(30, 1.5, len(questions.label)), 0.01, 1.0)
    log_true = -np.logaddexp(0, -log_odds) + np.log(mass)
    log_false = -np.logaddexp(0, log_odds) + np.log(mass)
    return [
        Prediction(
            sample_id=f"{questions.name}-{i}",
            image_set=f"{questions.name}-{image_set}",
            question_group=f"{questions.name}-{image_set}-{i % 2}",
            subset=FAMILIES[i % len(FAMILIES)],
            answer=Choice.truth(label),
            said=Scored((true, false), held, 0 if true >= false else 1),
            image_order=(0, 1),
            visual_tokens=(tokens, tokens - (i % 3)) if tokens < 196 else (tokens, tokens),
        )
        for i, (image_set, label, true, false, held) in enumerate(
            zip(
                questions.image_set.tolist(), questions.label.tolist(), log_true.tolist(), log_false.tolist(), mass.tolist(),
                strict=True,
            )  # fmt: skip
        )
    ]


def changed(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The config with some keys, given as `lora.r`, set."""
    config = copy.deepcopy(CONFIG)
    for key, value in overrides.items():
        section, _, field = key.rpartition(".")
        (config[section] if section else config)[field] = value
    return config


def write_run(
    runs_dir: Path,
    identity: str,
    overrides: Mapping[str, Any],
    dev: Sequence[Prediction],
    minival: Sequence[Prediction] = (),
    *,
    latency_ms: float = 12.0,
    curve: bool = True,
    intervals: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> Run:
    """A finished run with its predictions, curve, metrics and facts; `intervals` as a real run has them take their time."""
    folder = runs.folder(runs_dir, identity)
    config = changed(overrides)
    recorded = {"parameters/trainable": 6144.0 * config["lora"]["r"], "parameters/total": 1.3e6}
    recorded |= {"latency/p50_ms": latency_ms, "latency/p95_ms": 1.3 * latency_ms}
    recorded |= {"latency/examples_per_second": 9000 / latency_ms, "latency/batch_size": 64.0, "latency/tokens": 461.5}
    for prefix, share in (("", 1.0), ("merged_", 0.8), ("batch_", 40.0), ("merged_batch_", 35.0)):
        for stage, part in (("", 1.0), ("vision_", 0.4), ("prefill_", 0.6), ("decode_", 0.3)):
            if config["lora"]["r"] or not prefix.startswith("merged"):
                value = share * part * latency_ms
                recorded |= {f"latency/{prefix}{stage}p50_ms": value, f"latency/{prefix}{stage}p95_ms": 1.3 * value}
    recorded |= {"train/seconds": 31.5, "train/steps": 300.0, "train/examples_per_second": 152.0, "memory/peak_mb": 812.0}
    recorded |= {"time/first_metric_s": 4.2}
    for name, rows in (("dev", dev), ("minival", minival)):
        if rows:
            predictions.write(folder / "predictions" / f"{name}.parquet", rows)
            table = predictions.table(rows)
            recorded |= of_split(name, table, 2000) if intervals else {f"{name}/{key}": value for key, value in summarise(table).items()}
    if curve:
        generator = np.random.default_rng(int(config["seed"]))
        for step in range(9, 300, 10):
            loss = 0.69 * np.exp(-step * config["lora"]["r"] / 3000) + 0.02 * generator.normal()
            row = {"step": step, "seconds": 0.1 * step, "train/loss": float(loss)}
            if step % 50 == 49:
                row["minival/accuracy"] = float(0.5 + 0.2 * (1 - np.exp(-step * config["lora"]["r"] / 2000)))
            curve_files.append(folder, row)
    known = {
        "data": {
            "counts": {"train": 4000, "minival": len(minival), "dev": len(dev)},
            "samples": {"train": "a" * 64, "minival": "b" * 64, "dev": "c" * 64},
            "order": {"seed": config["seed"], "examples_seen": 4800},
            "notes": ["scenes are drawn, not photographed"],
            "skipped": 3,
        },
        "versions": {"torch": "2.13.0", "python": "3.11.7"},
    }
    run = Run(
        identity=identity,
        name=", ".join(f"{key}={value}" for key, value in overrides.items()),
        config=config,
        command="python -m lab.train " + " ".join(f"{key}={value}" for key, value in overrides.items()),
        status=runs.FINISHED,
        started=f"2026-07-01T10:00:00.{len(list(runs_dir.glob('*/run.json'))):06d}+00:00",
        ended="2026-07-01T10:01:00+00:00",
        metrics=recorded,
        facts={**known, **(facts or {})},
        process={"pid": 1},
    )
    runs.save(runs_dir, run)
    return run


def write_sweep(runs_dir: Path, identity: str, arms: Sequence[str], dials: Sequence[str], question: str | None = None) -> Sweep:
    """The record of a sweep over those runs."""
    sweep = Sweep(
        identity=identity,
        name=f"sweep {identity}",
        command="python -m lab.train lora.r=2,8,32 -m",
        arms=list(arms),
        dials=list(dials),
        question=question,
        started=f"2026-07-01T10:00:{len(list(runs_dir.glob('sweeps/*.json'))):02d}+00:00",
    )
    runs.save_sweep(runs_dir, sweep)
    return sweep


def write_example(runs_dir: Path, num_dev: int = 1400, num_minival: int = 400, intervals: bool = False) -> Sweep:
    """Five finished arms (a zero-shot baseline, three ranks, one with fewer tokens) and one that failed."""
    dev, minival = Questions.draw("dev", num_dev), Questions.draw("minival", num_minival, seed=1)
    arms = (
        ("zero", {"lora.name": "none", "lora.r": 0, "trainer.max_steps": 0}, 0.05, 0.9, 196, 12.1),
        ("rank2", {"lora.r": 2}, 0.55, 1.2, 196, 12.4),
        ("rank8", {"lora.r": 8}, 0.80, 1.6, 196, 12.6),
        ("rank32", {"lora.r": 32}, 0.84, 2.4, 196, 13.3),
        ("few", {"lora.r": 8, "vision_tokens.name": "resize", "vision_tokens.budget": 64}, 0.62, 1.5, 64, 7.9),
    )
    for seed, (identity, overrides, skill, sharpness, tokens, latency_ms) in enumerate(arms):
        write_run(
            runs_dir, identity, overrides, answers(dev, skill, sharpness, tokens, seed),
            answers(minival, skill, sharpness, tokens, seed), latency_ms=latency_ms, curve=skill > 0.1, intervals=intervals,
        )  # fmt: skip
    failed = Run("rank512", "lora.r=512", changed({"lora.r": 512}), "python -m lab.train lora.r=512", status=runs.FAILED)
    failed.error = "OutOfMemoryError: 18.2 GiB asked for, 16 GiB there"
    runs.save(runs_dir, failed)
    return write_sweep(
        runs_dir, "ranks", [*(arm[0] for arm in arms), "rank512"], ["lora.name", "lora.r", "vision_tokens.name"],
        "Does a higher rank help once the tower is frozen, and what do fewer visual tokens cost?",
    )  # fmt: skip


def write_boxes(runs_dir: Path, num_dev: int = 160, num_minival: int = 40, intervals: bool = False, **more: Any) -> Sweep:
    """Three arms that draw boxes: a zero-shot baseline and two ranks. more: further rows by the name of an arm."""
    arms = (("zero", {"lora.name": "none", "lora.r": 0, "trainer.max_steps": 0}, 0.15), ("rank2", {"lora.r": 2}, 0.6), ("rank8", {"lora.r": 8}, 0.9))
    for seed, (identity, overrides, skill) in enumerate(arms):
        dev, minival = box_tables.drawn(num_dev, skill, seed), box_tables.drawn(num_minival, skill, seed)
        write_run(runs_dir, identity, overrides, dev, minival, curve=skill > 0.2, intervals=intervals)
    for place, (identity, dev) in enumerate(more.items()):
        write_run(runs_dir, identity, {"lora.r": 16 + place}, dev, curve=False)
    return write_sweep(runs_dir, "boxes", [*(arm[0] for arm in arms), *more], ["lora.name", "lora.r"], "Where are the tables?")


def write_many(runs_dir: Path, num_runs: int, num_dev: int, num_minival: int) -> Sweep:
    """A large sweep over rank and learning rate."""
    dev, minival = Questions.draw("dev", num_dev), Questions.draw("minival", num_minival, seed=1)
    names = [f"run{i:05d}" for i in range(num_runs)]
    for i, identity in enumerate(names):
        rank, rate, skill = 2 ** (1 + i % 5), round(1e-4 * (1 + i // 5), 6), 0.4 + 0.1 * (i % 5) + 0.2 * i / num_runs
        write_run(
            runs_dir, identity, {"lora.r": rank, "optim.lr": rate}, answers(dev, skill, 1.5, seed=i),
            answers(minival, skill, 1.5, seed=i), latency_ms=10 + i % 37,
        )  # fmt: skip
    return write_sweep(runs_dir, "many", names, ["lora.r", "optim.lr"], "Which rank and rate?")


if __name__ == "__main__":  # python tests/synthetic_runs.py RUNS_DIR 1000 7000, then python -m lab.report --runs-dir RUNS_DIR
    write_many(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), 1000)
