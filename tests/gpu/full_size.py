"""Published widths and blocks through the training loop: memory against `lab.plan`'s, time of a step, model FLOPs utilisation.

Model FLOPs utilisation (MFU) divides what the plan counts for a step without recomputation by the step's time and the device's dense
peak by its maker's data sheet (Chowdhery et al. 2022, 2204.02311, appendix B, with the frozen base's gradients left out); the
hardware's utilisation does so with the operations of the matrix products that the step executes.
"""

from __future__ import annotations

import importlib.util
import math
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .scale import Scale
from .sheet import Sheet

if TYPE_CHECKING:
    from lab.config import Experiment
    from lab.costs.planning import Plan
    from lab.run import Prepared

SLACK = 1.03
"""Beyond the plan over `device_memory.FILLS`, which is what a plan promises: rounding of the allocator."""


def qwen2_vl_2b(scale: Scale, sheet: Sheet) -> None:
    """Qwen2-VL-2B in bfloat16, batch 8, gradient checkpointing off and on; flash-attn too where it is installed."""
    path = scale.checkpoint("qwen2_vl", "2b")
    attentions = ["sdpa"]
    if scale.device == "cuda" and importlib.util.find_spec("flash_attn"):
        attentions.append("flash_attention_2")
    else:
        sheet.skip("flash_attention_2", "flash_attn is not installed" if scale.device == "cuda" else "flash_attn needs a GPU")
    for attention in attentions:
        x = scale.experiment("qwen2_vl_2b", path, f"model.attn_implementation={attention}", "trainer.batch_size=8")
        prepared = opened(x, sheet, attention)
        for on in (False, True):
            name = f"{attention}, gradient checkpointing {'on' if on else 'off'}"
            measured(with_checkpointing(x, on), prepared, sheet, name, number=10 if not scale.small else 2)
        del prepared


def qwen2_5_vl_7b(scale: Scale, sheet: Sheet) -> None:
    """Qwen2.5-VL-7B in bfloat16, batch 2, gradient checkpointing as the plan has it; then QLoRA over an NF4 base."""
    path = scale.checkpoint("qwen2_5_vl", "7b")
    x = scale.experiment("qwen2_5_vl_7b", path, "trainer.batch_size=2", "data.num_train=16")
    measured(x, opened(x, sheet, "bfloat16"), sheet, "bfloat16", number=3)
    if importlib.util.find_spec("bitsandbytes") is None:
        sheet.skip("nf4", "bitsandbytes is not installed")
        return
    x = scale.experiment("qwen2_5_vl_7b", path, "trainer.batch_size=2", "data.num_train=16", "model.quantisation=nf4")
    measured(x, opened(x, sheet, "nf4"), sheet, "nf4", number=3)


def opened(x: Experiment, sheet: Sheet, name: str) -> Prepared:
    """Base and data, loaded as `lab.train` loads them, features of the frozen tower computed."""
    from lab import run as running

    start = time.perf_counter()
    prepared = running.prepare(x)
    sheet.add(f"{name}: load base and data, see images", time.perf_counter() - start, "s")
    return prepared


def with_checkpointing(x: Experiment, on: bool) -> Experiment:
    """The experiment with gradient checkpointing on or off."""
    return replace(x, trainer=replace(x.trainer, gradient_checkpointing=on))


def planned(x: Experiment, prepared: Prepared) -> Plan:
    """What `lab.plan` says of the experiment, told the size of its examples and the device's memory."""
    from lab.costs import planning
    from lab.training import capacity

    longest = prepared.encoded(x)["train"].longest
    text = longest.length - sum(longest.tokens)
    return planning.plan(x, longest.tokens[0], len(longest.tokens), text, capacity.total(prepared.vlm.device))


def measured(x: Experiment, prepared: Prepared, sheet: Sheet, name: str, number: int) -> None:
    """Take so many timed steps through `lab.training.loop` and note time, memory and utilisation."""
    import torch

    from lab.bench import steps
    from lab.evaluation import latency
    from lab.run.assembly import attached
    from lab.training import loop

    device, plan = prepared.vlm.device, planned(x, prepared)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    asked, clock = steps.lasting(x, number), steps.Clock(1)
    with attached(asked, prepared.vlm) as vlm, tempfile.TemporaryDirectory() as folder:
        outcome = loop.train(asked, vlm, prepared.encoded(x), Path(folder), time.time(), watchers=(clock,))
    seconds = statistics.median(steps.differences(clock.ends))
    losses = steps.means(clock.losses, 1)
    sheet.add(f"{name}: step", 1e3 * seconds, "ms", f"median of {number}, batch {x.trainer.batch_size}, {plan.tokens} tokens an example")
    sheet.add(f"{name}: tokens", x.trainer.batch_size * plan.tokens / seconds, "tokens/s")
    sheet.check(f"{name}: losses are numbers", all(map(math.isfinite, losses)), f"{losses[0]:.4f} to {losses[-1]:.4f}")
    sheet.check(f"{name}: fits", "out_of_memory" not in outcome.facts, str(outcome.facts.get("out_of_memory", "as planned")))
    settled = outcome.facts["gradient_checkpointing"]["on"]
    sheet.check(f"{name}: the plan recomputes as the run does", plan.recomputes == settled, f"plan {plan.recomputes}, run {settled}")
    memory(sheet, name, plan, latency.peak_memory_mb(device) * 2**20 if on_gpu else None)
    model = planned(with_checkpointing(x, False), prepared) if plan.recomputes else plan
    utilisation(sheet, name, with_checkpointing(x, settled), prepared, model.train_flops * x.trainer.batch_size, seconds)


def memory(sheet: Sheet, name: str, plan: Plan, peak: float | None) -> None:
    """Note a plan's bytes beside those that were allocated at most. peak: None where the device does not say."""
    from lab.costs import device_memory

    sheet.add(f"{name}: memory, planned", plan.memory_bytes / 1e9, "GB", f"weights {plan.weight_bytes / 1e9:.3f}, "
              f"adapters {plan.adapter_bytes / 1e9:.3f}, activations {plan.activation_bytes / 1e9:.3f}")  # fmt: skip
    if peak is None:
        sheet.skip(f"{name}: memory, measured", "a CPU does not say what was allocated at most")
        return
    sheet.add(f"{name}: memory, measured", peak / 1e9, "GB", "most that was allocated during training")
    sheet.add(f"{name}: measured over planned", peak / plan.memory_bytes, "")
    most = SLACK * plan.memory_bytes / device_memory.FILLS
    sheet.check(f"{name}: what is planned to fit fits", peak <= most, f"{peak / 1e9:.2f} of at most {most / 1e9:.2f} GB")


def utilisation(sheet: Sheet, name: str, x: Experiment, prepared: Prepared, model: float, seconds: float) -> None:
    """Note operations of a step and, where the device's peak is known, the share of it that they are. model: FLOPs by the plan."""
    import torch

    from lab.bench import steps

    executed = steps.flops_of_step(x, prepared)
    sheet.add(f"{name}: model FLOPs of a step", model / 1e12, "TFLOP", "the plan's, without recomputation")
    sheet.add(f"{name}: executed FLOPs of a step", executed / 1e12, "TFLOP", "matrix products, padding included")
    device = prepared.vlm.device
    peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if peak is None:
        sheet.skip(f"{name}: MFU", "the device's peak is not known")
        return
    sheet.add(f"{name}: MFU", 100 * model / seconds / peak, "%", f"of {peak / 1e12:.0f} TFLOP/s, dense bfloat16")
    sheet.add(f"{name}: hardware utilisation", 100 * executed / seconds / peak, "%")


def peak_flops(name: str) -> float | None:
    """FLOP/s of a device by what it calls itself; None for one that `lab.costs.machines` does not know."""
    from lab.costs import machines

    plain = name.lower().replace(" ", "")
    return next((known.bfloat16 for device, known in machines.SHEETS.items() if device in plain), None)
