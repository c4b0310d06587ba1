"""Latency and memory of answering, measured after a warm-up and with the device synchronised around every reading."""

from __future__ import annotations

import resource
import time

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
    encoder = examples.encoder
    take = min(max(num_examples, 1), len(examples))
    items = [encoder.example(examples.split[i]) for i in range(min(max(take, batch_size), len(examples)))]
    vlm.model.eval()
    with torch.inference_mode():
        singles = [encoder.collate([item], with_answers=False, align=1) for item in items[:take]]
        for batch in singles[:warmup]:
            answer_seconds(vlm, batch)
        seconds = sorted(answer_seconds(vlm, batch) for batch in singles)
        full = encoder.collate(items[:batch_size], with_answers=False, align=1)
        answer_seconds(vlm, full)
        batched = min(answer_seconds(vlm, full) for _ in range(3))
    quantile = torch.quantile(torch.tensor(seconds, dtype=torch.float64), torch.tensor([0.5, 0.95], dtype=torch.float64))
    return {
        "latency/p50_ms": 1e3 * quantile[0].item(),
        "latency/p95_ms": 1e3 * quantile[1].item(),
        "latency/examples_per_second": len(full.sample_ids) / batched,
        "latency/batch_size": float(len(full.sample_ids)),
    }


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory in 2^20 bytes: allocated on a GPU since the last reset, else the resident set of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
