"""Whether what a finished run reports is what its files say: the run is loaded anew and asked again, from pixels."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from grid.dimensions import BUDGET, Row
from lab import data
from lab import run as running
from lab.answers import predictions
from lab.answers.text import TextTable
from lab.config import Experiment
from lab.evaluation import asking, generation, scoring
from lab.evaluation.batches import eval_batches
from lab.freezing import from_dict
from lab.model import Vlm
from lab.model.batching import to_device
from lab.model.encoding import Encoder
from lab.records import Prediction
from lab.statistics.metrics import KINDS
from lab.store import runs
from lab.store.runs import Run
from lab.training.examples import Examples

NOISE = {"float32": 1e-3, "bfloat16": 0.25, "float16": 0.25}
"""Largest legal difference of a log-probability between features from the store and from pixels, batches of other sizes included."""


def faults(row: Row, known: Run, runs_dir: Path) -> list[str]:
    """What is wrong with a run, in words; empty if nothing is."""
    if known.status != runs.FINISHED:
        return [f"{known.status}: {known.error}"]
    x = from_dict(known.config)
    kind = KINDS[predictions.read(runs.predictions_file(runs.folder(runs_dir, known.identity), x.data.name, "dev"), ["sample_id"]).kind]
    wanted = [f"dev/{name}" for name in (kind.headline, kind.watched)]
    found = [f"{key}={known.metrics[key]}" for key in wanted if not math.isfinite(known.metrics[key])]
    if x.evaluation.verify and known.metrics["verify/passed"] != 1.0:
        found.append(f"verify: {[check for check in known.facts['verify'] if check['passed'] is False]}")
    if row["training"] == "resumed" and not known.facts.get("interruptions") and x.trainer.if_unfinished.value == "resume":
        found.append("it was interrupted and has not gone on")
    if x.vision_tokens.budget is not None and known.metrics["visual_tokens/max"] > BUDGET:
        found.append(f"visual_tokens/max={known.metrics['visual_tokens/max']} above the budget")
    return found + asked_again(x, known, runs.folder(runs_dir, known.identity))


def asked_again(x: Experiment, known: Run, run_dir: Path) -> list[str]:
    """Ask dev with the arm from its files; hold that against the run's predictions and metrics."""
    vlm = running.reload(x, run_dir)
    splits = data.load(x.data, Path(x.tracking.cache_dir))
    examples = Examples(splits.dev, Encoder(vlm, x.prompt, x.seed, splits.answers))
    examples.prepare(None, vlm)
    scored = asking.ask(vlm, examples, examples.encoder.readout, x.evaluation, "dev")
    table = predictions.read(runs.predictions_file(run_dir, x.data.name, "dev"))
    if isinstance(table, TextTable):
        return written_again(x, scored, table)
    gap = np.abs(table.log_p - np.array([one.said.log_p for one in scored])).max()
    found = [] if gap <= NOISE[x.model.dtype.value] else [f"reloaded scores differ by {gap:.3g} in log p"]
    return found + (generated_again(x, vlm, examples, scored, known) if "generate" in x.evaluation.ask else [])


def written_again(x: Experiment, written: list[Prediction], table: TextTable) -> list[str]:
    """The reference must be as probable a token, up to noise; in float32 the same must be written."""
    said = [one.said for one in written]
    gaps = np.abs(table.log_p_reference - np.array([one.log_p_reference for one in said])) / table.reference_tokens
    found = [] if gaps.max() <= NOISE[x.model.dtype.value] else [f"references differ by {gaps.max():.3g} in log p a token"]
    other = [(a, b.text) for a, b in zip(table.text, said, strict=True) if a != b.text and x.model.dtype.value == "float32"]
    return found + ([f"written {other[0][0]!r}, and from its files {other[0][1]!r}"] if other else [])


def generated_again(x: Experiment, vlm: Vlm, examples: Examples, scored: list[Prediction], known: Run) -> list[str]:
    """Generation must begin with the token that scoring finds most likely, up to ties, and its metrics must be the run's."""
    texts = generation.generate(vlm, examples, examples.encoder.readout, x.evaluation, "dev")
    tokenizer, found, done = vlm.processor.tokenizer, [], 0
    for batch in eval_batches(examples, x.evaluation.batch_size):
        logits = scoring.answer_logits(vlm, to_device(batch, vlm.device)).float()
        for one in logits.detach():
            likely = (one >= one.max() - NOISE[x.model.dtype.value]).nonzero().flatten().tolist()
            # a token may be the first bytes of a character only, which decode to U+FFFD
            starts = tuple(tokenizer.decode([token], skip_special_tokens=True).rstrip("\ufffd") for token in likely)
            if not texts[done].text.startswith(starts):
                found.append(f"{texts[done].sample_id}: generated {texts[done].text!r}, scoring would begin with {starts}")
            done += 1
    again = {f"dev/{key}": value for key, value in generation.compare(texts, predictions.table(scored)).items()}
    off = {key: (value, known.metrics[key]) for key, value in again.items() if abs(value - known.metrics[key]) > 1e-9}
    if off and x.model.dtype.value == "float32":
        found.append(f"generation of the reloaded arm has other metrics: {off}")
    return found[:3]
