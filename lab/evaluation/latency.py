"""Latency and memory of answering, measured after a warm-up and with the device synchronised around every reading.

Metrics of a run, `latency/[merged_][batch_][STAGE_]p50_ms` and `...p95_ms`:

    (none)    adapters beside the weights, as trained     merged_   merged into them, as exported; absent if nothing merges
    (none)    one example alone                           batch_    `latency/batch_size` examples: ms of the whole batch
    (none)    pixels on the CPU to answer logits          STAGE_    vision_, prefill_ or decode_ (`lab.evaluation.stages`)

The whole is transfer + vision + prefill, in one pass, the time to the first token; decode is one further token, of which
`latency/tokens_per_second` is how many fit into a second, one example alone. p50 and p95 are order statistics of
`latency/examples` examples a visit, or of `latency/batches` batches a visit, over `latency/visits` visits. Images come as
pixels; decoding and preprocessing them is no part of it. An arm of a sweep has `quick_latency/...` too: a short look at its end
(`lab.run.latency_rounds`), beside the other arms.
"""

from __future__ import annotations

import dataclasses
import re
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lab.evaluation import stages
from lab.model import Vlm
from lab.model.batching import to_device
from lab.records import Batch
from lab.training.devices import now
from lab.training.examples import Examples

if TYPE_CHECKING:
    from transformers.utils.generic import ModelOutput


@dataclass(frozen=True)
class Seconds:
    """What one pass took. decode: of one further token; None where answers are labels."""

    whole: float
    vision: float
    prefill: float
    decode: float | None


@dataclass(frozen=True)
class Workload:
    """What is asked at every visit, encoded once: examples alone and one full batch, on the CPU, images as pixels.

    tokens, visual_tokens: of one example in the full batch, mean; visual tokens of all its images.
    """

    singles: tuple[Batch, ...]
    full: Batch

    @property
    def tokens(self) -> float:
        assert self.full.prompt.mask is not None
        return float(self.full.prompt.mask.sum()) / len(self.full.sample_ids)

    @property
    def visual_tokens(self) -> float:
        return sum(self.full.media.tokens) / len(self.full.sample_ids)


@dataclass(frozen=True)
class Pace:
    """Passes of one model in one visit."""

    singles: tuple[Seconds, ...]
    batches: tuple[Seconds, ...]


@dataclass(frozen=True)
class Measurement:
    """One visit to a model. peak_mb: of answering; None on a CPU, which cannot say."""

    pace: Pace
    peak_mb: float | None


def workload(examples: Examples, num_examples: int, batch_size: int) -> Workload:
    """The first examples of a split. Without padding to `ALIGN`, which serves exact scores and not speed."""
    encoder = examples.encoder
    items = [encoder.example(examples.split[i]) for i in range(min(max(num_examples, batch_size, 1), len(examples)))]
    singles = tuple(encoder.collate([item], with_answers=False, align=1) for item in items[: max(num_examples, 1)])
    return Workload(singles, encoder.collate(items[:batch_size], with_answers=False, align=1))


def timed(vlm: Vlm, batch: Batch) -> Seconds:
    """One pass through all stages, the device synchronised between them."""
    device = vlm.device
    moments = [now(device)]
    moved = to_device(batch, device)
    moments.append(now(device))
    seen = stages.encode_images(vlm, moved)
    moments.append(now(device))
    read = stages.prefill(vlm, moved, seen)
    moments.append(now(device))
    start, arrived, looked, answered = moments
    decode = None if vlm.family.answers == "classes" else decoding(vlm, moved, seen, read)
    return Seconds(whole=answered - start, vision=looked - arrived, prefill=answered - looked, decode=decode)


def decoding(vlm: Vlm, batch: Batch, seen: ModelOutput | None, read: stages.Read) -> float:
    """Seconds of one further token."""
    further = stages.next_inputs(vlm, batch, seen, read.logits.argmax(dim=-1))
    started = now(vlm.device)
    stages.decode_step(vlm, further, read.cache)
    return now(vlm.device) - started


def pace(vlm: Vlm, work: Workload, warmup: int, batches: int) -> Pace:
    """Time a workload after `warmup` passes; on a GPU one more at full batch, whose kernels are others."""
    vlm.model.eval()
    with torch.inference_mode():
        for i in range(warmup):
            timed(vlm, work.singles[i % len(work.singles)])
        singles = tuple(timed(vlm, single) for single in work.singles)
        if vlm.device.type == "cuda" and batches:
            timed(vlm, work.full)
        return Pace(singles, tuple(timed(vlm, work.full) for _ in range(batches)))


def visit(vlm: Vlm, work: Workload, warmup: int, batches: int) -> Measurement:
    """Time a model. It is left as it is, bit for bit."""
    if vlm.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(vlm.device)
    taken = pace(vlm, work, warmup, batches)
    return Measurement(taken, peak_memory_mb(vlm.device) if vlm.device.type == "cuda" else None)


def summarise(plain: Sequence[Measurement], merged: Sequence[Measurement], work: Workload) -> dict[str, float]:
    """Latency metrics from all visits to a model as trained, and to the same merged (none where nothing merges)."""
    out: dict[str, float] = {}
    for prefix, visits in {"": plain, "merged_": merged}.items():
        out |= order_statistics(prefix, [seconds for one in visits for seconds in one.pace.singles])
        out |= order_statistics(f"{prefix}batch_", [seconds for one in visits for seconds in one.pace.batches])
    size = len(work.full.sample_ids)
    batches = [seconds.whole for one in plain for seconds in one.pace.batches]
    out |= {"latency/examples_per_second": size / min(batches), "latency/batch_size": float(size)} if batches else {}
    out |= {"latency/visits": float(len(plain)), "latency/examples": float(len(work.singles))}
    out |= {"latency/batches": float(len(plain[0].pace.batches))}
    out |= {"latency/tokens": work.tokens, "latency/visual_tokens": work.visual_tokens}
    out |= {"latency/tokens_per_second": 1e3 / out["latency/decode_p50_ms"]} if "latency/decode_p50_ms" in out else {}
    peaks = [one.peak_mb for one in plain if one.peak_mb is not None]
    return out | ({"latency/peak_mb": max(peaks)} if peaks else {})


def order_statistics(prefix: str, passes: Sequence[Seconds]) -> dict[str, float]:
    """p50 and p95 in milliseconds of every part of a pass; nothing of none."""
    if not passes:
        return {}
    out = {}
    for field in dataclasses.fields(Seconds):
        stage = "" if field.name == "whole" else f"{field.name}_"
        if (taken := [getattr(one, field.name) for one in passes])[0] is None:
            continue
        seconds = torch.tensor(taken, dtype=torch.float64)
        p50, p95 = torch.quantile(seconds, torch.tensor([0.5, 0.95], dtype=torch.float64)).tolist()
        out |= {f"latency/{prefix}{stage}p50_ms": 1e3 * p50, f"latency/{prefix}{stage}p95_ms": 1e3 * p95}
    return out


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in 2^20 bytes: allocated on a GPU since the last reset, else the resident set of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    high = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    if high is not None:  # Linux's `ru_maxrss` counts what the parent held before it started this process
        return float(high[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
