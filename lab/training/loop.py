"""One arm's training through Lightning's Trainer, its curve written to the run folder as it goes."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping

from lab import lora
from lab.config import Experiment, TrainerSection, augments
from lab.errors import ContractError, ModelError, TrainingError
from lab.host.garbage import frozen_heap
from lab.host.progress import Report, silent
from lab.host.stopping import deferred, interruptible
from lab.model import Vlm
from lab.store import curve_files
from lab.training import capacity, checkpoints, compiling, devices, liger, packed_rows, tree_rows
from lab.training.allocation import keep_freed_memory
from lab.training.callbacks import CurveLogger, Progress, RequireEightBits, StopOnNonFiniteLoss
from lab.training.checkpoints import Checkpoint
from lab.training.datamodule import DataModule
from lab.training.examples import Examples
from lab.training.learner import Learner, worker
from lab.training.lightning_trainer import chosen_strategy, lightning_trainer, quiet_lightning
from lab.training.loss_scaling import LossScaling
from lab.training.objective import require_votes
from lab.training.optimization import EIGHT_BITS
from lab.training.resuming import CheckpointCallback, put_weights, trained
from lab.training.steps import epoch_steps, num_steps

log = logging.getLogger(__name__)


HELD = 4
"""Samples by which `trainer.use_liger_kernel` is held against the plain step."""
REHEARSED = 4
"""Forwards whose lengths say what `trainer.packing` saves."""


@dataclass
class Outcome:
    """What a training gives: summary numbers, and what had to be changed or was gone on from."""

    metrics: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def fitting(found: Checkpoint | None, alike: dict[str, Any]) -> Checkpoint | None:
    """A checkpoint that may be gone on from. Raises `ContractError` with the difference if it was taken of something else."""
    if found is None:
        return None
    now, then = json.loads(json.dumps(alike)), found.facts["alike"]
    keys = [key for key in sorted(now.keys() | then.keys()) if now.get(key) != then.get(key)]
    if keys:
        differing = "\n".join(f"  {key}: then {then.get(key)}, now {now.get(key)}" for key in keys)
        raise ContractError(
            f"the checkpoint to go on from was taken under other conditions:\n{differing}\n"
            "Bring them back, or begin anew with trainer.if_unfinished=restart."
        )
    return found


def smaller(micro: tuple[int, int]) -> tuple[int, int]:
    """The next smaller batch with as many samples per optimizer step: (samples per forward, forwards per step)."""
    effective = micro[0] * micro[1]
    size = max(size for size in range(1, micro[0]) if effective % size == 0)
    return size, effective // size


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is an allocator's: CUDA's, Python's, or that of PyTorch on a CPU, which has no type of its own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
    )


def require_smaller(section: TrainerSection, micro: tuple[int, int], error: BaseException) -> None:
    """Raise a `ModelError` where no smaller batch is tried after an allocator's error: of several devices, and of one sample."""
    if section.devices > 1:
        raise ModelError(
            f"trainer.devices={section.devices}: one of them is out of memory ({str(error)[:200]}). Lower trainer.batch_size "
            "and raise trainer.accumulate_grad_batches by the same factor."
        ) from None
    if micro[0] == 1:
        raise ModelError(f"trainer.batch_size: one sample does not fit into memory ({str(error)[:200]}).") from None


def train(
    x: Experiment,
    vlm: Vlm,
    splits: dict[str, Examples],
    run_dir: Path,
    started: float,
    alike: dict[str, Any] | None = None,
    report: Report = silent,
    watchers: Sequence[Callback] = (),
    pause_at: int | None = None,
    choice: capacity.Choice | None = None,
) -> Outcome:
    """Train the adapters in place, from the run's newest checkpoint if it has one.

    started: Unix time at which the command began. alike: what must be the same in a checkpoint to go on from.
    watchers: Lightning callbacks that look on (`lab.bench`). pause_at: optimizer steps after which it pauses. choice: of gradient
    checkpointing, where it is made.
    Out of memory, the arm goes on from its last checkpoint with fewer samples per forward and as many per optimizer step, and says so.
    Raises `ContractError` where a checkpoint does not fit, `TrainingError` where the loss is not finite, `ModelError` where one
    sample does not fit into memory, `Stopped` where the run is asked to stop, `Paused` at `pause_at`.
    """
    keep_freed_memory()
    require_votes(x.optim, splits["train"])
    choice = choice or capacity.choose(x.trainer, x.optim, vlm, splits["train"])
    if choice.on and not choice.asked:
        log.warning("%s", choice.why)
    x = capacity.settled(x, choice.on)
    number = splits["train"].epoch_length
    learner = Learner(vlm, x.optim, splits["train"].encoder.readout, num_steps(x.trainer, number), epoch_steps(x.trainer, number))
    fresh = beginning(learner)
    facts: dict[str, Any] = {"gradient_checkpointing": choice.facts()}
    micro = (x.trainer.batch_size, x.trainer.accumulate_grad_batches)
    while True:
        resumed = fitting(checkpoints.newest(run_dir), alike or {})
        if resumed is not None:
            micro = min(micro, tuple(resumed.facts["micro"]))
            x = capacity.settled(x, resumed.facts["gradient_checkpointing"])
            facts["gradient_checkpointing"] |= {"on": x.trainer.gradient_checkpointing, "by": "checkpoint"}
            facts.setdefault("resumed_at_step", resumed.step)
        else:
            put_weights(learner, Checkpoint(fresh, {}))
        try:
            return Outcome(fit(x, learner, splits, run_dir, started, alike or {}, micro, resumed, report, watchers, pause_at, facts), facts)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            require_smaller(x.trainer, micro, error)
        micro = smaller(micro)
        facts.setdefault("out_of_memory", []).append({"batch_size": micro[0], "accumulate_grad_batches": micro[1]})
        log.warning("out of memory: going on with trainer.batch_size=%d, trainer.accumulate_grad_batches=%d", *micro)
        vlm.model.zero_grad(set_to_none=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def beginning(learner: Learner) -> dict[str, torch.Tensor]:
    """What trains as it begins, to begin again from: copies on the CPU, but of weights that begin as the base's those themselves."""
    bases = {id(own.master): own.base for own in learner.vlm.full.values() if torch.equal(own.master, own.base.to(own.master.dtype))}
    return {f"weights.{name}": bases[id(each)] if id(each) in bases else each.detach().cpu().clone() for name, each in trained(learner).items()}


def fit(
    x: Experiment,
    learner: Learner,
    splits: dict[str, Examples],
    run_dir: Path,
    started: float,
    alike: dict[str, Any],
    micro: tuple[int, int],
    resumed: Checkpoint | None,
    report: Report,
    watchers: Sequence[Callback],
    pause_at: int | None,
    facts: dict[str, Any],
) -> dict[str, float]:
    """One go at the steps that are left; return `train/*` summary numbers. facts: to which it adds how samples were laid out."""
    section = x.trainer
    if devices.rank() == 0:
        curve_files.cut(run_dir, resumed.facts["curve_rows"] if resumed else 0)
    logger = CurveLogger(run_dir, started)
    if resumed is not None:
        logger = CurveLogger(run_dir, time.time() - resumed.facts["clock_s"], resumed.facts["first_metric_s"])
    watched = f"minival/{learner.objective.watched}"
    early = None if section.patience is None else EarlyStopping(watched, patience=section.patience, mode=learner.objective.better)
    keeper = CheckpointCallback(run_dir, section, micro, alike, early, resumed, logger, started, pause_at)
    if resumed is not None and resumed.facts["ended"]:
        put_weights(learner, resumed)
        last, saved = resumed.facts, {}
    else:
        callbacks = [Progress(learner.steps, math.prod(micro), report), StopOnNonFiniteLoss(run_dir), *([early] if early else []), keeper]
        callbacks += [*watchers, *([RequireEightBits()] if x.optim.optimizer in EIGHT_BITS else [])]
        last, saved = take_steps(x, learner, splits, micro, resumed, logger, keeper, callbacks, facts)
    out = summary(last, micro) | saved
    if last["best"] is not None and devices.rank() == 0:
        put_weights(learner, checkpoints.read(checkpoints.folder(run_dir) / checkpoints.BEST))
        out["train/best_step"] = float(last["best"]["step"])
    return out


def take_steps(
    x: Experiment,
    learner: Learner,
    splits: dict[str, Examples],
    micro: tuple[int, int],
    resumed: Checkpoint | None,
    logger: CurveLogger,
    keeper: CheckpointCallback,
    callbacks: list[Callback],
    facts: dict[str, Any],
) -> tuple[dict[str, Any], dict[str, float]]:
    """Train from where it stands to the end: the facts of the last checkpoint, and what packing or trees have saved."""
    section, steps = x.trainer, learner.steps
    augment, blocks = x.data.augment if augments(x) else None, splits["train"].blocks(x.data)
    done = 0 if resumed is None else resumed.step
    data = DataModule(splits["train"], splits["minival"], section, micro, x.seed, steps, done, augment, blocks)
    fast = liger.LigerKernels(learner, facts) if section.use_liger_kernel else None
    callbacks = [*callbacks, *([compiling.CompiledBlocks(learner, facts)] if section.torch_compile else []), *([fast] if fast else [])]
    with quiet_lightning():
        scaling = LossScaling("cuda" if devices.on_gpu(section) else "cpu") if learner.scaled else None
        strategy = chosen_strategy(section, learner.vlm.device if learner.vlm.spread else None, idle=bool(lora.seeing(learner.vlm)))
        trainer = lightning_trainer(section, micro[1], steps, len(splits["minival"]) > 0, logger, callbacks, scaling, strategy)
    with worker(learner, section.sharded) as working:
        prepare_model(x, working)
        size = micro[0] // section.devices
        settled = tree_rows.settle(x, working, data, size)
        data.layout, saved = settled.layout, settled.metrics
        if fast is not None:
            fast.held_to_plain(splits["train"].encoder, data.upcoming(1)[:HELD])
        facts |= {"layout": {"asked": section.layout, "used": settled.layout, **settled.facts}} if settled.facts else {}
        if section.packing:
            saved = packed_rows.rehearse(working, splits["train"].encoder, data.upcoming(REHEARSED), size)
        forking = frozen_heap() if section.num_workers else contextlib.nullcontext()
        with deferred(), quiet_lightning(), interruptible(), forking:
            trainer.fit(working, datamodule=data)
            return keeper.keep(trainer, working, ended=True), saved


def summary(last: dict[str, Any], micro: tuple[int, int]) -> dict[str, float]:
    """`train/*` numbers of the last checkpoint's facts. Raises `TrainingError` where float16 has let no step pass."""
    out = {
        "train/steps": float(last["step"]),
        "train/seconds": last["seconds"],
        "train/examples_per_second": last["step"] * math.prod(micro) / last["seconds"],
        "train/loss": last["loss"],
        "train/batch_size": float(micro[0]),
    }
    if last["first_metric_s"] is not None:  # with fewer steps than trainer.log_every no metric was logged
        out["time/first_metric_s"] = last["first_metric_s"]
    if last.get("scaling") is not None:
        out["train/steps_left_out"] = float(last["scaling"]["left_out"])
        if last["step"] and out["train/steps_left_out"] == last["step"]:
            raise TrainingError(
                f"all {last['step']} optimizer steps were left out, because their gradients overflowed float16: nothing was trained. Each "
                "halves the factor of the loss, so raise trainer.max_steps, or take model.dtype=bfloat16."
            )
    return out


def prepare_model(x: Experiment, learner: Learner) -> None:
    """Seed dropout and put into training mode what trains. Whether it recomputes has been settled."""
    assert x.trainer.gradient_checkpointing is not None
    torch.manual_seed(x.seed)
    learner.train()
    capacity.recompute(learner.vlm, x.trainer.gradient_checkpointing)
