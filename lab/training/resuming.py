"""Going on exactly: what a checkpoint takes from Lightning's loop, and how a new loop is put in the same place.

A checkpoint is taken where an optimizer step begins, when everything of the step before (logging, validation, early
stopping) is done. A resumed loop is a new one whose sampler begins at the next sample and whose three counters are set:
batches, optimizer steps, steps for the logger. Optimizer, schedule, early stopping and RNG are restored before its first
forward, so that on a CPU in float32 every later bit is that of a run that was never stopped.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping

from lab.config import TrainerSection
from lab.errors import ContractError, TrainingError
from lab.host.stopping import REQUEST, seconds
from lab.store import curve_files
from lab.training import checkpoints, devices, loss_scaling, sharding
from lab.training.callbacks import CurveLogger
from lab.training.checkpoints import Checkpoint, Paused
from lab.training.learner import Learner


class CheckpointCallback(Callback):
    """Takes and restores checkpoints, keeps the best weights, and ends the training where it is asked to stop.

    micro: samples per forward and forwards per step, as they are in this process. alike: facts that must be the same in a
    checkpoint to go on from, such as the hash of the samples. command_started: Unix time, where `trainer.max_time` begins.
    pause_at: optimizer steps after which it raises `Paused`; None: never.
    """

    def __init__(
        self,
        run_dir: Path,
        section: TrainerSection,
        micro: tuple[int, int],
        alike: dict[str, Any],
        early: EarlyStopping | None,
        resumed: Checkpoint | None,
        logger: CurveLogger,
        command_started: float,
        pause_at: int | None,
    ) -> None:
        self.run_dir = run_dir
        self.section = section
        self.micro = micro
        self.alike = alike
        self.early = early
        self.resumed = resumed
        self.logger = logger
        self.command_started = command_started
        self.pause_at = pause_at
        self.limit_s = limit_s(section)
        self.start = self.look_began = 0.0
        self.best: dict[str, float] | None = resumed.facts["best"] if resumed else None
        self.earlier_s = float(resumed.facts["seconds"]) if resumed else 0.0
        self.last = resumed.step if resumed else 0
        self.rng_waits = resumed is not None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.start = time.perf_counter()
        REQUEST.install()  # Lightning's own handler would leave before a checkpoint is taken
        if self.resumed is not None:
            restore_state(trainer, pl_module, self.resumed, self.micro[1])
            if self.early is not None:
                state = self.resumed.facts["early_stopping"]
                self.early.load_state_dict({**state, "best_score": torch.tensor(state["best_score"])})

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if self.rng_waits:  # iterators of loaders, made before this, draw from the generator
            assert self.resumed is not None
            restore_rng(self.resumed)
            self.rng_waits = False
        if batch_idx % self.micro[1]:
            return
        step = trainer.global_step
        why = self.reason(trainer)
        every = self.section.save_every
        pauses = self.pause_at is not None and step >= self.pause_at
        if step > self.last and (why is not None or pauses or (every is not None and step % every == 0)):
            self.keep(trainer, pl_module, ended=False)
        if pauses:
            raise Paused(step)
        if why is not None:
            raise REQUEST.end(f"{why} after step {step} of {trainer.max_steps}; the same command goes on from there")

    def reason(self, trainer: L.Trainer) -> str | None:
        """Why the training should stop now, if it should; with several devices, all stop at the same step."""
        asked = REQUEST.asked
        late = self.limit_s is not None and time.time() - self.command_started > self.limit_s
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
            late = trainer.strategy.reduce_boolean_decision(late, all=False)
        if asked:
            return f"stopped by {REQUEST.by}"
        return f"stopped by trainer.max_time={self.section.max_time}" if late else None

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.look_began = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.start += time.perf_counter() - self.look_began  # looks at minival are no part of `train/seconds`
        assert isinstance(pl_module, Learner)
        watched = pl_module.objective.watched
        value = float(trainer.callback_metrics[f"minival/{watched}"])
        moved = trainer.global_step > loss_scaling.left_out(trainer)
        if self.section.restore_best and moved and (self.best is None or ahead(value, self.best[watched], pl_module.objective.better)):
            self.best = {watched: value, "step": trainer.global_step}
            weights = sharding.gathered(trained(pl_module))
            if trainer.is_global_zero:
                path = checkpoints.folder(self.run_dir) / checkpoints.BEST
                checkpoints.write(path, Checkpoint({f"weights.{k}": v for k, v in weights.items()}, dict(self.best)))

    def keep(self, trainer: L.Trainer, module: L.LightningModule, ended: bool) -> dict[str, Any]:
        """Write a checkpoint of this moment and return its facts. ended: no step is left to take."""
        self.last = trainer.global_step
        require_finite(module, self.last)
        taken = capture_state(trainer, module)
        facts = {
            **taken.facts,
            "micro": list(self.micro),
            "gradient_checkpointing": self.section.gradient_checkpointing,
            "alike": self.alike,
            "early_stopping": early_state(self.early),
            "best": self.best,
            "curve_rows": curve_files.count(self.run_dir),
            "seconds": self.earlier_s + time.perf_counter() - self.start,
            "clock_s": time.time() - self.logger.started,
            "first_metric_s": self.logger.first_metric_s,
            "ended": ended,
        }
        if trainer.is_global_zero:
            checkpoints.save(self.run_dir, Checkpoint(taken.tensors, facts), self.section.keep_checkpoints)
        return facts


def ahead(value: float, best: float, better: str) -> bool:
    """Whether a watched number is better than the best so far. better: min or max."""
    return value < best if better == "min" else value > best


def limit_s(section: TrainerSection) -> float | None:
    """`trainer.max_time`, HH:MM:SS, in seconds."""
    return None if section.max_time is None else seconds(section.max_time)


def trained(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters that train, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def require_finite(module: L.LightningModule, step: int) -> None:
    """Raise a `TrainingError` if a parameter that trains holds what is no number: no later step mends it."""
    broken = devices.of_all([name for name, parameter in trained(module).items() if not torch.isfinite(sharding.local(parameter)).all()])
    if broken:
        raise TrainingError(
            f"{len(broken)} trained tensors are not finite after optimizer step {step} (first: {broken[0]}). Lower optim.lr or "
            "trainer.gradient_clip_val; over model.dtype=float16, choose bfloat16 or float32."
        )


def capture_state(trainer: L.Trainer, module: L.LightningModule) -> Checkpoint:
    """Weights, optimizer, schedule and RNG of this moment."""
    optimizer = trainer.optimizers[0].state_dict()
    tensors = {f"weights.{name}": value for name, value in sharding.gathered(trained(module)).items()}
    state = {f"optimizer.{index}.{key}": value for index, one in optimizer["state"].items() for key, value in flat(one).items()}
    of_state = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    tensors |= sharding.gathered(of_state)
    tensors["rng.cpu"] = torch.get_rng_state()
    if module.device.type == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state(module.device)
    loss = trainer.callback_metrics.get("train/loss")
    facts = {
        "step": trainer.global_step,
        "optimizer": optimizer["param_groups"],
        "counts": {name: value for name, value in state.items() if name not in of_state},
        "schedule": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
        "loss": None if loss is None else float(loss),
        "scaling": trainer.precision_plugin.state_dict() or None,
    }
    return Checkpoint(tensors, facts)


def flat(state: dict[str, Any]) -> dict[str, Any]:
    """The state of one parameter without the folder in which bitsandbytes hides what it holds in 8 bits, and with a copy of the maps of
    these that is its own: a file holds no tensor twice."""
    nested = [value for value in state.values() if isinstance(value, dict)]
    plain = {key: value for one in (state, *nested) for key, value in one.items() if not isinstance(value, dict)}
    return {key: value.clone() if key.startswith("qmap") else value for key, value in plain.items()}


def put_weights(module: torch.nn.Module, checkpoint: Checkpoint) -> None:
    """Copy a checkpoint's weights into the parameters that train. Raises `ContractError` if they are others."""
    own, kept = trained(module), checkpoint.group("weights")
    if own.keys() != kept.keys() or any(own[name].shape != kept[name].shape for name in own):
        raise ContractError(
            "the checkpoint to go on from holds other trained parameters than this experiment has; "
            "trainer.if_unfinished=restart begins anew."
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(sharding.shared_out(kept[name], parameter))


def restore_state(trainer: L.Trainer, module: L.LightningModule, checkpoint: Checkpoint, accumulate: int) -> None:
    """Put a new loop where a checkpoint was taken."""
    put_weights(module, checkpoint)
    restore_optimizer(trainer.optimizers[0], checkpoint)
    trainer.lr_scheduler_configs[0].scheduler.load_state_dict(dict(checkpoint.facts["schedule"]))
    if checkpoint.facts.get("scaling") is not None:
        trainer.precision_plugin.load_state_dict(checkpoint.facts["scaling"])
    loop = trainer.fit_loop.epoch_loop
    batches: Any = loop.batch_progress.total
    batches.ready = batches.started = batches.processed = batches.completed = checkpoint.step * accumulate
    steps = loop.automatic_optimization.optim_progress.optimizer.step.total
    steps.ready = steps.completed = checkpoint.step
    loop._batches_that_stepped = checkpoint.step


def restore_optimizer(optimizer: torch.optim.Optimizer, checkpoint: Checkpoint) -> None:
    """Give an optimizer the state and the groups that were taken."""
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    counts = {name.removeprefix("optimizer."): value for name, value in checkpoint.facts.get("counts", {}).items()}
    for name, value in (checkpoint.group("optimizer") | counts).items():
        index, _, key = name.partition(".")
        like = parameters[int(index)]
        state.setdefault(int(index), {})[key] = sharding.shared_out(value, like) if isinstance(value, torch.Tensor) else value
    optimizer.load_state_dict({"state": state, "param_groups": checkpoint.facts["optimizer"]})
    if getattr(optimizer, "is_paged", False):
        paged(optimizer)


def paged(optimizer: Any) -> None:
    """Let bitsandbytes page restored state as it pages its own."""
    for parameter, state in optimizer.state.items():
        for name in {"state1", "state2"} & state.keys():
            buffer = optimizer.get_state_buffer(parameter, dtype=state[name].dtype)
            state[name] = buffer.copy_(state[name])


def restore_rng(checkpoint: Checkpoint) -> None:
    """Put the generators back that dropout draws from."""
    torch.set_rng_state(checkpoint.tensors["rng.cpu"])
    if "rng.cuda" in checkpoint.tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(checkpoint.tensors["rng.cuda"])


def early_state(early: EarlyStopping | None) -> dict[str, Any] | None:
    """Early stopping's state as JSON values."""
    if early is None:
        return None
    state = early.state_dict()
    return {**state, "best_score": float(state["best_score"])}
