"""What is measured of a trained arm: scores, controls, swaps, latency, the equivalence gate."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lab import data, lora
from lab.answers import learned, predictions
from lab.artifacts import contract, export
from lab.config import DataDial, EvaluationSection, Experiment, asked, trains
from lab.data.controls import ControlSplit
from lab.errors import DataError, ModelError
from lab.evaluation import asking, equivalence, generation, latency, probing, scoring, swap
from lab.evaluation.batches import eval_batches
from lab.host.progress import Report
from lab.model import Vlm
from lab.model.answers import AnyReadout, Readout
from lab.model.batching import to_device
from lab.records import Text
from lab.run import benchmarks, latency_rounds, other_data, overlap, zero_shot
from lab.run.accounting import visual_tokens
from lab.run.assembly import reload
from lab.run.other_data import OTHERS, Other
from lab.statistics import rules, summary
from lab.statistics.metrics import KINDS
from lab.store import runs
from lab.store.runs import Run
from lab.training.examples import Examples

log = logging.getLogger(__name__)

PROBE = "probe.safetensors"


METRIC = "metric "
"""What begins the name of a metric from outside, among all that is asked."""


def wanted_of(x: Experiment) -> dict[str, str]:
    """All that is asked of a run: `lab.config.asked`, what its base answers, and the metrics that plugins have registered."""
    return asked(x) | zero_shot.wanted(x) | {f"{METRIC}{kind.name}/{name}": "" for kind in KINDS.values() for name in kind.own}


def unasked(x: Experiment, run: Run) -> set[str]:
    """What of it a run's record does not have yet."""
    known = run.facts.get("asked", {})
    return {name for name, digest in wanted_of(x).items() if known.get(name) != digest}


def evaluate(
    x: Experiment, vlm: Vlm, encoded: dict[str, Examples], readout: AnyReadout, run_dir: Path, report: Report,
    facts: dict[str, Any], interleaved: bool = False, todo: Collection[str] | None = None, others: Sequence[Other] = (),
) -> dict[str, float]:
    """Score splits and write their predictions, measure latency and memory; return the summary numbers.

    facts: of the run, to whose `also` is added what was asked of other data, by name (`lab.run.other_data`). others: that are wanted.
    interleaved: latency will be measured again with other arms in turn (`lab.run.latency_rounds`), so that a quick one will do.
    todo: the names of `asked` that are wanted, of a run whose speed is known; None: all, and the speed.
    """  # fmt: skip
    section, wanted = x.evaluation, wanted_of(x).keys() if todo is None else todo
    reread = readout.kind == Text.kind and todo is not None and "post" in todo
    if reread:
        set_post(x, run_dir, facts)
    anew = reread or any(name.startswith(METRIC) for name in wanted)  # numbers of predictions that are there
    out: dict[str, float] = {}
    tables: dict[str, predictions.PredictionTable] = {}
    for name in (*section.splits, *(f"dev_{control}" for control in section.controls)):
        path = runs.predictions_file(run_dir, x.data.name, name)
        if name in wanted:
            out |= ask_split(x, vlm, encoded, readout, run_dir, name, path, facts, report)
        if path.exists():
            tables[name] = predictions.read(path)
            out |= summary.of_split(name, tables[name], section.bootstrap) if anew or name in wanted else {}
    dev = tables["dev"]
    if "dev" in wanted or reread:
        out |= {**visual_tokens(dev.visual_tokens), **by_rule("dev", data.lead(x.data), dev), **summary.of_subsets(dev)}
        out |= {"answers/tokens": float(dev.tokens.mean())} if "tokens" in dev.columns else {}
    if "generate" in wanted:
        out |= generated(x, vlm, encoded["dev"], dev, readout, run_dir, report)
    if "swap" in wanted:
        out |= swapped(x, vlm, encoded["dev"], dev, readout, run_dir, report)
    if {"minival", "dev"} <= tables.keys() and (anew or {"minival", "dev"} & set(wanted)):
        out |= summary.of_scaling(tables["minival"], dev)
    for other in others:
        numbers, asked_of = other_data.ask(x, vlm, other, encoded["dev"].encoder, run_dir, report, wanted_of(x)[other.asked])
        out |= numbers
        facts["also"] = facts.get("also", {}) | asked_of
        if trains(x) and other.asked.startswith(OTHERS[0]):
            asked_of[other.part.name]["overlap"] = overlap.look(
                x, encoded["train"].split, other.examples["dev"].split, other.part.name, run_dir, report
            )
    for name, path in runs.other_predictions(run_dir, x.data.name).items() if anew else ():
        out |= summary.of_split(f"{name}/dev", predictions.read(path), section.bootstrap)
    return out if todo is not None else out | speed(section, vlm, encoded["dev"], interleaved, report)


def set_post(x: Experiment, run_dir: Path, facts: dict[str, Any]) -> None:
    """Write `prompt.post` into predictions that are there, but for those of other data that are put by prompts of their own."""
    put_otherwise = tuple(f"{name}." for name, other in facts.get("also", {}).items() if not other.get("own_prompt", True))
    for path in (run_dir / "predictions").glob("*.parquet"):
        if not learned.is_scores(path) and not path.name.startswith(put_otherwise):
            predictions.rewrite(path, "post", x.prompt.post)


def ask_split(
    x: Experiment, vlm: Vlm, encoded: dict[str, Examples], readout: AnyReadout, run_dir: Path, name: str, path: Path,
    facts: dict[str, Any], report: Report,
) -> dict[str, float]:
    """Ask a split, or dev with a control, and write its predictions; return the marks of a benchmark. Nothing of an empty one."""
    control = name.removeprefix("dev_")
    examples = encoded[name] if control == name else control_examples(control, encoded["dev"], x.seed)
    if not len(examples):
        return {}
    if name != "dev" or not benchmarks.is_one(x.data):
        part = runs.part_file(path, wanted_of(x)[name])
        predictions.write(path, asking.ask(vlm, examples, readout, x.evaluation, name, report, part=part))
        return {}
    reasons = [reason for _, reason in facts["data"]["skipped_records"]]
    rows = benchmarks.ask(x, vlm, examples, x.data, x.evaluation, run_dir, x.data.name, report)
    numbers = benchmarks.mark(x.data, x.data.name, examples, reasons, rows, run_dir)
    predictions.write(path, rows)
    return numbers


def generated(
    x: Experiment, vlm: Vlm, examples: Examples, dev: predictions.PredictionTable, readout: AnyReadout, run_dir: Path, report: Report
) -> dict[str, float]:
    """Have dev's answers written, and hold them against those of the record."""
    texts = asking.ask(vlm, examples, readout, x.evaluation, "dev", report, "generate")
    out = {f"dev/{key}": value for key, value in generation.compare(texts, dev).items()}
    if benchmarks.is_one(x.data):
        rows = predictions.rows(runs.predictions_file(run_dir, x.data.name, "dev"))
        out |= benchmarks.hold_against(x.data, x.data.name, rows, texts, run_dir)
    return out


def speed(section: EvaluationSection, vlm: Vlm, dev: Examples, interleaved: bool, report: Report) -> dict[str, float]:
    """Peak memory and latency."""
    report("measuring latency", 0, 1, "")
    out = {"memory/peak_mb": latency.peak_memory_mb(vlm.device)}
    if section.latency_examples:
        measured = latency_rounds.quick_latency if interleaved else latency_rounds.measure_latency
        out |= measured(section, vlm, dev)
    report("measuring latency", 1, 1, "")
    return out


def ask_minival(
    x: Experiment, vlm: Vlm, minival: Examples, readout: AnyReadout, path: Path, report: Report, step: int
) -> None:
    """Ask a model that is not done training all of minival, and write its predictions."""
    predictions.write(path, asking.ask(vlm, minival, readout, x.evaluation, f"minival at step {step}", report))


def by_rule(name: str, dial: DataDial, table: predictions.PredictionTable) -> dict[str, float]:
    """A benchmark's own scores of a split's table, where it has a rule: `<name>/<rule>/<score>`."""
    numbers, lines = rules.evaluated(vars(dial), table)
    if lines:
        log.info("%s", lines)
    return {f"{name}/{key}": value for key, value in numbers.items()}


def swapped(
    x: Experiment, vlm: Vlm, examples: Examples, dev: predictions.PredictionTable, readout: AnyReadout, run_dir: Path, report: Report
) -> dict[str, float]:
    """Score dev with its images in the other order, side words swapped and kept; write each group, return the agreement."""
    rows = swap.sided(examples.split)
    turned = []
    for split in (swap.SwappedSplit(examples.split, rename=True), swap.SwappedSplit(examples.split, rename=False, rows=rows)):
        again = Examples(split, examples.encoder)
        again.prepare(examples.store, vlm)
        turned.append(asking.ask(vlm, again, readout, x.evaluation, "dev, images swapped", report))
    groups = swap.by_group(rows, *turned)
    out = swap.summarise(dev, groups)
    for group, members in groups.items():
        path = runs.predictions_file(run_dir, x.data.name, f"dev_swap_{group}")
        predictions.write(path, members)
        agreement = swap.agreement(dev, predictions.read(path))
        out |= {} if agreement is None else summary.ends(f"swap/{group}_agreement", agreement)
    return out


def control_examples(control: str, examples: Examples, seed: int) -> Examples:
    """The examples of a split with their images taken away, encoded as the split itself is."""
    return Examples(ControlSplit(examples.split, control, seed), examples.encoder)


def verify(x: Experiment, vlm: Vlm, examples: Examples, run_dir: Path) -> list[equivalence.Check]:
    """Run the equivalence gate on the first examples of dev and keep the probe in the run folder."""
    samples = [examples.split[i] for i in range(min(x.evaluation.probe_examples, len(examples)))]
    with tempfile.TemporaryDirectory(prefix="lab-export-") as scratch:

        def plain(reloaded: Vlm) -> Path:
            folder = Path(scratch) / "export"
            export.export(reloaded, folder, contract.load(run_dir))
            return folder

        checks, reference = equivalence.verify(
            x.model, vlm, samples, examples.encoder, lambda: reload(x, run_dir, vlm.device), plain, shared=x.evaluation.shared_prefix
        )
    kept = {"logits": reference.numbers, "answers": reference.answers, "margins": reference.margins}
    save_file({name: values.contiguous() for name, values in kept.items()}, run_dir / PROBE)
    return checks


def stored_probe(run_dir: Path, readout: AnyReadout) -> probing.Probe:
    """The probe as it was when the model was trained. Raises `DataError` if it is gone or damaged."""
    try:
        stored = load_file(run_dir / PROBE)
        logits = stored["logits"]
        if logits.ndim != 2 or not logits.is_floating_point():
            raise ValueError(f"its numbers are {logits.dtype} of shape {list(logits.shape)}")
        if isinstance(readout, Readout):
            return probing.of_logits(logits, readout)
        answers = stored["answers"]
        margins = stored.get("margins", logits.new_full(answers.shape, math.inf))
        if margins.shape != answers.shape:
            raise ValueError(f"its answers are of shape {list(answers.shape)}, their margins of {list(margins.shape)}")
        return probing.Probe(logits, answers, margins)
    except (OSError, KeyError, IndexError, ValueError, SafetensorError) as error:
        raise DataError(f"{run_dir / PROBE}: the probe's logits cannot be read ({error}).") from None


def require_effect(vlm: Vlm, fresh: Vlm, examples: Examples) -> None:
    """Raise a `ModelError` if what has trained moves no logit of a probe batch.

    fresh: the arm over the same base as it was before training: for it adapters are switched off and the base's weights are back, extra
    modules are new.
    """
    import torch

    batch = to_device(next(eval_batches(examples, 8)), vlm.device)
    vlm.model.eval()
    with torch.inference_mode():
        adapted = scoring.answer_logits(vlm, batch)
        with lora.as_untrained(vlm):
            bare = scoring.answer_logits(fresh, batch)
    if torch.equal(adapted, bare):
        raise ModelError(
            "lora: neither what trained of the model nor an extra module moves a logit. Was optim.lr zero, or does the target "
            "never run?"
        )
