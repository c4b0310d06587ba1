"""`trainer.packing`: what a row of several samples does and saves, looked at before the training begins.

Whether samples of a row read each other depends on positions, mask, cache and attention kernel together, so it is seen in training's own
call: one token of a sample is changed, and what is predicted of its neighbour must stay equal to the bit.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from lab.errors import ModelError
from lab.model.batching import pack, to_device
from lab.model.encoded import Example
from lab.model.encoding import Encoder
from lab.records import Batch
from lab.training.devices import now
from lab.training.learner import Learner

log = logging.getLogger(__name__)

REPEATS = 3
"""Forwards with backwards of which the fastest counts."""


def rehearse(learner: Learner, encoder: Encoder, examples: Sequence[Example], size: int) -> dict[str, float]:
    """How much faster a forward of `size` samples is in one row than in as many, and the share of places that hold real tokens then.

    examples: of several forwards. Raises `ModelError` where samples of a row read each other. Leaves model, gradients and random numbers as
    they were.
    """
    device = learner.vlm.device
    if not learner.vlm.spread:
        learner.to(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if len(examples) > 1:
            require_isolated(learner, encoder, examples[:2])
        rows = seconds(learner, encoder.collate(examples[:size], with_answers=True, learned=True))
        packed = seconds(learner, pack(encoder, examples[:size]))
    lengths = [encoder.size(example, answered=True).length for example in examples]
    slots = sum(max(part) * len(part) for start in range(0, len(lengths), size) if (part := lengths[start : start + size]))
    found = {"train/packing_speedup": rows / packed, "train/slots_used": 1.0, "train/slots_used_unpacked": sum(lengths) / slots}
    log.info(
        "trainer.packing: %d samples stand in one row, whose places all hold real tokens; in rows %.0f %% would. A forward with its backward "
        "is %.2f times as fast so.", size, 100 * found["train/slots_used_unpacked"], rows / packed,
    )  # fmt: skip
    return found


def require_isolated(learner: Learner, encoder: Encoder, pair: Sequence[Example]) -> None:
    """Raise a `ModelError` where a changed token of the first of two samples in a row moves what is predicted of the second."""
    batch = to_device(pack(encoder, pair), learner.vlm.device)
    labels, ids = batch.target.labels, batch.prompt.ids.clone()
    assert labels is not None
    ids[0, 0] = next(label for label in labels[0] if label != ids[0, 0])
    training = learner.vlm.model.training
    learner.vlm.model.eval()
    with torch.no_grad():
        before, after = (learner.fused.predict(one) for one in (batch, replace(batch, prompt=replace(batch.prompt, ids=ids))))
    learner.vlm.model.train(training)
    own = pair[0].text.targets
    if not before[:, own:].equal(after[:, own:]) or before[:, :own].equal(after[:, :own]):
        config = learner.vlm.base_model.config
        raise ModelError(
            f"trainer.packing=true: with model.attn_implementation={config._attn_implementation} this version of Transformers does not keep "
            "samples in one row apart: a changed token of one moves what is predicted of the next. Set model.attn_implementation=sdpa, or "
            "trainer.packing=false."
        )


def seconds(learner: Learner, batch: Batch) -> float:
    """Of a forward with its backward, the fastest of some."""
    batch, best = to_device(batch, learner.vlm.device), math.inf
    for _ in range(REPEATS):
        start = now(learner.vlm.device)
        learner.loss(batch).backward()
        best = min(best, now(learner.vlm.device) - start)
        learner.zero_grad(set_to_none=True)
    return best
