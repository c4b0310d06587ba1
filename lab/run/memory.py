"""How many arms fit beside one another in the memory of this machine. They share base, features and data; the rest is each one's own."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

from lab import lora, planning
from lab.config import Experiment
from lab.run.accounting import DECODED, trainable_parameters
from lab.run.assembly import assemble
from lab.run.sharing import Prepared

log = logging.getLogger(__name__)

SURROUNDINGS = 400 * 2**20
"""Bytes of an arm's process beside what `own_bytes` counts: pages of the shared heap that it writes, training loop, evaluation (seen with
the tiny base: 190 to 220 MB in all)."""

GATE_COPIES = 2
"""Of the base, in the equivalence gate: loaded again and merged, and loaded from what was merged."""

CGROUP = Path("/sys/fs/cgroup")


def riders(arms: Sequence[Experiment], prepared: Prepared, limit: int) -> int:
    """How many arms of one shared base ride together: `limit`, or fewer where memory has no room for so many, but one."""
    kinds = {repr((x.lora, x.prompt, x.vision_tokens, x.conditioning, x.trainer, x.evaluation)): x for x in arms}
    need = max(own_bytes(x, prepared) for x in kinds.values())
    there = room()
    fitting = max(1, int(min(limit, there // need)))
    if fitting < limit:
        log.warning(
            "memory: an arm needs about %.1f GB of its own and %.1f GB are there: %d ride together, not %d. "
            "hydra.launcher.max_arms=N says otherwise.", need / 1e9, there / 1e9, fitting, limit,
        )  # fmt: skip
    return fitting


def own_bytes(x: Experiment, prepared: Prepared) -> float:
    """Bytes of memory that an arm's process needs beside what it shares: `lab.planning`'s adapters and activations, the gate's copies.

    Activations are those of the longest of the first prompts.
    """
    vlm = assemble(x, prepared.vlm)
    encoded = prepared.encoded(x)
    examples = encoded.get("train", encoded["dev"])
    length = max(examples.encoder.shape(examples[i]).length for i in range(min(DECODED, len(examples))))
    trainable = trainable_parameters(vlm, lora.verify(vlm, x.lora))
    weights = sum(parameter.nbytes for parameter in vlm.bare.parameters())
    needed = planning.adapter_bytes(x, trainable) + planning.activation_bytes(x, vlm.bare.config, length)
    return SURROUNDINGS + needed + (GATE_COPIES * weights if x.evaluation.verify else 0.0)


def room(proc: Path = Path("/proc"), cgroup: Path = CGROUP) -> float:
    """Bytes that processes may still take: what Linux calls available, or less where a control group allows less; else unlimited."""
    limits = [math.inf]
    meminfo = proc / "meminfo"
    if meminfo.is_file():
        values = dict(line.split(":") for line in meminfo.read_text().splitlines())
        limits.append(1024.0 * int(values["MemAvailable"].split()[0]))
    most, taken = cgroup / "memory.max", cgroup / "memory.current"
    if most.is_file() and taken.is_file() and most.read_text().strip() != "max":
        limits.append(float(most.read_text()) - float(taken.read_text()))
    return max(0.0, min(limits))
