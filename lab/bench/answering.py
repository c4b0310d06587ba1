"""Answers from one forward pass against generated ones: examples a second at one batch size, and where they differ."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch

from lab.bench.results import Figure
from lab.config import Experiment
from lab.errors import ConfigError
from lab.evaluation import fast_inference, generation, scoring
from lab.evaluation.latency import now
from lab.host.progress import Report, silent
from lab.model import Vlm
from lab.model.answers import Readout
from lab.model.batching import ROWS, to_device
from lab.records import Batch
from lab.training.examples import Examples
from lab.training.fast.fused_step import instead


@dataclass
class Work:
    """One batch twice, ready to be answered: features from the cache, in the parts that scoring reads, and pixels."""

    features: list[Batch]
    pixels: Batch


def work(examples: Examples, batch_size: int, batches: int, device: torch.device) -> list[Work]:
    """The first batches of a split."""
    made = []
    part = scoring.part_of(batch_size, device)
    for start in range(0, min(batches * batch_size, len(examples)), batch_size):
        indices = range(start, min(start + batch_size, len(examples)))
        encoder = examples.encoder
        items = [examples[i] for i in indices]
        features = [encoder.collate(items[i : i + part], with_answers=False) for i in range(0, len(items), part)]
        pixels = encoder.collate([encoder.example(examples.split[i]) for i in indices], with_answers=False)
        made.append(Work(features, pixels))
    return made


def measure(x: Experiment, vlm: Vlm, examples: Examples, batches: int = 3, report: Report = silent) -> list[Figure]:
    """Time both ways in turn. Inputs are ready before the clock starts: decoding images, which only generation needs, is free."""
    reads = examples.encoder.readout
    if not isinstance(reads, Readout):
        raise ConfigError(f"data={x.data.name}: answers in words are generated only, so there is nothing to time generation against.")
    vlm.model.eval()
    todo = work(examples, x.evaluation.batch_size, batches, vlm.device)
    in_place = fast_inference.forwards(vlm, ROWS)
    scored_s, generated_s = [], []
    differing = neither = count = 0
    with torch.inference_mode():
        for done, item in enumerate([todo[0], *todo]):  # the first batch once more, as a warm-up
            start = now(vlm.device)
            with instead(in_place):
                logits = [scoring.answer_logits(vlm, to_device(part, vlm.device)) for part in item.features]
            answers = reads.answers(torch.cat(logits))
            middle = now(vlm.device)
            texts = generation.texts(vlm, generation.write(vlm, to_device(item.pixels, vlm.device)))
            end = now(vlm.device)
            report("scoring against generating (batches)", done, len(todo), "")
            if done == 0:
                continue
            size = len(item.pixels.sample_ids)
            scored_s.append((middle - start) / size)
            generated_s.append((end - middle) / size)
            read = [reads.read(text) for text in texts]
            differing += sum(a is not None and a != b for a, b in zip(read, answers.tolist(), strict=True))
            neither += sum(a is None for a in read)
            count += size
    scored, generated = statistics.median(scored_s), statistics.median(generated_s)
    note = f"batch {x.evaluation.batch_size}, inputs ready"
    return [
        Figure("scoring, cached features", 1 / scored, "examples/s", note),
        Figure(f"generate(max_new_tokens={generation.MAX_NEW_TOKENS})", 1 / generated, "examples/s", note),
        Figure("scoring / generating", generated / scored, "times"),
        Figure("answers that differ", float(differing), f"of {count}"),
        Figure("generated texts that are neither answer", float(neither), f"of {count}"),
    ]
