"""Ways to one result, at the published widths and two blocks: arms over one base and alone, stopped and never stopped, merged and not.

On a CPU the bits must be the same. A GPU's kernels may add in another order from run to run: PyTorch is told to take those that do not
where it has them, `TOLERANCE` holds, and the sheet says whether the bits were the same too.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from .scale import Scale
from .sheet import Sheet

if TYPE_CHECKING:
    from lab.config import Experiment
    from lab.store.runs import Run

STEPS, STOP = 6, 3
TOLERANCE = {"cpu": 0.0, "cuda": 5e-2}
"""Largest gap of the loss after `STEPS` steps in nats, and of the B matrices, which begin at zero, over their norm."""


def same_results(scale: Scale, sheet: Sheet) -> None:
    """Two ranks over one base, the first of them alone, and stopped in between; then the equivalence gate."""
    import torch

    from lab import run as running

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it with its first product
    torch.use_deterministic_algorithms(scale.device == "cuda", warn_only=True)
    path = scale.checkpoint("qwen2_vl", "2b", num_layers=2, depth=2)
    options = ("trainer.batch_size=4", f"trainer.max_steps={STEPS}", f"trainer.save_every={STOP}")

    def arm(rank: int, runs: str, *more: str) -> Experiment:
        return scale.experiment("qwen2_vl_2b", path, *options, f"lora.r={rank}", *more, runs=runs)

    prepared = running.prepare(arm(8, "shared"))
    shared = [running.run_arm(x, prepared, running.new_run(x, "shared"), time.time()) for x in (arm(16, "shared"), arm(8, "shared"))]
    alone = running.run_alone(arm(8, "alone", "evaluation.verify=true"), "alone", time.time())
    cut_off = arm(8, "stopped")
    with stopped_at(STOP):
        running.run_alone(cut_off, "stopped", time.time())
    resumed = running.run_alone(cut_off, "stopped", time.time())
    sheet.check("it went on where it was stopped", resumed.facts.get("resumed_at_step") == STOP, str(resumed.facts.get("resumed_at_step")))
    alike(sheet, "an arm over a shared base = alone", scale, shared[1], alone)
    alike(sheet, "stopped and gone on = never stopped", scale, resumed, alone)
    for row in alone.facts["verify"]:
        sheet.check(f"equivalence gate: {row['name']}", row["passed"] is not False, gate(row))


@contextlib.contextmanager
def stopped_at(step: int) -> Any:
    """Within, a training keeps a checkpoint and leaves at this step, as on SIGTERM, and so does this block."""
    from lab.host.stopping import Stopped
    from lab.training.resuming import CheckpointCallback

    def reason(_: CheckpointCallback, trainer: Any) -> str | None:
        return "stopped by this part" if trainer.global_step == step else None

    with mock.patch.object(CheckpointCallback, "reason", reason), contextlib.suppress(Stopped):
        yield


def alike(sheet: Sheet, name: str, scale: Scale, one: Run, other: Run) -> None:
    """Note the gaps between the losses and the adapters of two runs."""
    import torch

    losses = [run.metrics["train/loss"] for run in (one, other)]
    adapters = [adapter(run) for run in (one, other)]
    assert adapters[0].keys() == adapters[1].keys()
    bits = losses[0] == losses[1] and all(torch.equal(adapters[0][key], tensor) for key, tensor in adapters[1].items())
    learned = [torch.cat([tensor.flatten() for key, tensor in sorted(each.items()) if "lora_B" in key]) for each in adapters]
    gap = float((learned[0] - learned[1]).norm() / learned[1].norm())
    most = TOLERANCE[scale.device]
    found = f"losses {losses[0]:.6f} and {losses[1]:.6f}, B {gap:.2e} of its norm apart, bits {'the same' if bits else 'other'}"
    sheet.check(name, abs(losses[0] - losses[1]) <= most and gap <= most and (bits or most > 0), found)


def adapter(run: Run) -> dict[str, Any]:
    """The tensors of a run's adapter."""
    from safetensors.torch import load_file

    folder = Path(run.config["tracking"]["runs_dir"]) / run.identity / "adapter"
    return load_file(folder / "adapter_model.safetensors")


def gate(row: dict[str, Any]) -> str:
    """One line of the gate in words."""
    flips = f"{row['flips']} flips of {row['num_examples']}"
    return f"largest gap {row['max_gap']}, tolerance {row['tolerance']}, {flips} {row['note']}".strip()
