"""Latency and memory of answering, measured after a warm-up and with the device synchronised around every reading."""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lab.model import Vlm
from lab.model.encoding import to_device
from lab.records import Batch
from lab.training.datamodule import Examples


def answer_seconds(vlm: Vlm, batch: Batch) -> float:
    """Seconds from pixels on the CPU to answer logits: transfer, tower, projector, language model, head."""
    synchronise(vlm.device)
    start = time.perf_counter()
    moved = to_device(batch, vlm.device)
    vlm.logits(moved, 1)
    synchronise(vlm.device)
    return time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(vlm: Vlm, examples: Examples, warmup: int, num_examples: int, batch_size: int) -> dict[str, float]:
    """Milliseconds per example at batch 1 (p50, p95) and examples/s at `batch_size`, images from pixels, no feature cache.

    Decoding and preprocessing are not part of it. p50 and p95 are order statistics of `num_examples` single forwards.
    """
    return summarise([look(vlm, examples, warmup, num_examples, batch_size)])


@dataclass(frozen=True)
class Look:
    """One visit to an arm: seconds of single forwards, and examples/s and size of the full batch."""

    singles: tuple[float, ...]
    examples_per_second: float
    batch_size: int


def look(vlm: Vlm, examples: Examples, warmup: int, num_examples: int, batch_size: int) -> Look:
    """Time single forwards and one full batch; the same examples on every visit."""
    encoder = examples.encoder
    take = min(max(num_examples, 1), len(examples))
    items = [encoder.example(examples.split[i]) for i in range(min(max(take, batch_size), len(examples)))]
    vlm.model.eval()
    with torch.inference_mode():
        singles = [encoder.collate([item], with_answers=False, align=1) for item in items[:take]]
        for batch in singles[:warmup]:
            answer_seconds(vlm, batch)
        seconds = tuple(answer_seconds(vlm, batch) for batch in singles)
        full = encoder.collate(items[:batch_size], with_answers=False, align=1)
        answer_seconds(vlm, full)
        batched = min(answer_seconds(vlm, full) for _ in range(2))
    return Look(seconds, len(full.sample_ids) / batched, len(full.sample_ids))


def summarise(looks: Sequence[Look]) -> dict[str, float]:
    """Latency numbers of an arm from all visits to it."""
    seconds = torch.tensor([one for visit in looks for one in visit.singles], dtype=torch.float64)
    p50, p95 = torch.quantile(seconds, torch.tensor([0.5, 0.95], dtype=torch.float64)).tolist()
    return {
        "latency/p50_ms": 1e3 * p50,
        "latency/p95_ms": 1e3 * p95,
        "latency/examples_per_second": max(visit.examples_per_second for visit in looks),
        "latency/batch_size": float(looks[0].batch_size),
        "latency/visits": float(len(looks)),
    }


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in 2^20 bytes: allocated on a GPU since the last reset, else the resident set of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
