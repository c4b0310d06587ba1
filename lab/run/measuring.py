"""What is measured of a trained arm: scores, controls, swaps, latency, the equivalence gate."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lab.answers import predictions
from lab.artifacts import contract, export
from lab.config import Experiment
from lab.data.controls import ControlSplit
from lab.errors import DataError, ModelError
from lab.evaluation import asking, equivalence, generation, latency, scoring, swap
from lab.host.progress import Report
from lab.model import Vlm
from lab.model.answers import Readout
from lab.model.encoding import to_device
from lab.records import Prediction
from lab.run import latency_rounds
from lab.run.assembly import reload
from lab.statistics import summary, winoground
from lab.training.datamodule import Examples, eval_batches

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

PROBE = "probe.safetensors"


def evaluate(
    x: Experiment, vlm: Vlm, encoded: dict[str, Examples], readout: Readout, run_dir: Path, report: Report,
    in_turn: bool = False,
) -> dict[str, float]:
    """Score minival and dev, write their predictions, measure latency and memory; return the summary numbers.

    in_turn: latency will be measured again with other arms in turn (`lab.run.latency_rounds`), so that a glance will do.
    """  # fmt: skip
    out: dict[str, float] = {}
    section = x.evaluation
    looked_at = {name: encoded[name] for name in ("minival", "dev") if len(encoded[name])}
    looked_at |= {f"dev_{name}": control_examples(name, encoded["dev"], x.seed) for name in section.controls}
    tables: dict[str, predictions.PredictionTable] = {}
    for name, examples in looked_at.items():
        scored = asking.ask(vlm, examples, readout, section, name, report)
        path = run_dir / "predictions" / f"{name}.parquet"
        predictions.write(path, scored)
        tables[name] = predictions.read(path)
        out |= summary.of_split(name, tables[name], section.bootstrap)
        if name == "dev":
            counts = [count for row in scored for count in row.visual_tokens]
            out["visual_tokens/mean"] = sum(counts) / len(counts)
            out["visual_tokens/min"], out["visual_tokens/max"] = float(min(counts)), float(max(counts))
            if x.data.name == "winoground":
                found = winoground.intervals(tables[name])
                log.info("%s", winoground.told(found))
                out |= winoground.summary(found)
            if section.generate:
                texts = asking.ask(vlm, examples, readout, section, name, report, "generate")
                out |= {f"dev/{key}": value for key, value in generation.compare(texts, scored).items()}
            if section.swap:
                out |= swapped(x, vlm, examples, scored, readout, run_dir, report)
    out |= summary.of_subsets(tables["dev"]) if "dev" in tables else {}
    out |= summary.of_scaling(tables["minival"], tables["dev"]) if {"minival", "dev"} <= tables.keys() else {}
    report("measuring latency", 0, 1, "")
    out["memory/peak_mb"] = latency.peak_memory_mb(vlm.device)
    out |= latency_rounds.glance(section, vlm, encoded["dev"]) if in_turn else latency_rounds.alone(section, vlm, encoded["dev"])
    report("measuring latency", 1, 1, "")
    return out


def swapped(
    x: Experiment, vlm: Vlm, examples: Examples, scored: list[Prediction], readout: Readout, run_dir: Path, report: Report
) -> dict[str, float]:
    """Score dev with its images in the other order, side words swapped and kept; write each group, return the agreement."""
    rows = swap.sided(examples.split)
    turned = []
    for split in (swap.SwappedSplit(examples.split, rename=True), swap.SwappedSplit(examples.split, rename=False, rows=rows)):
        again = Examples(split, examples.encoder)
        again.prepare(examples.store, vlm)
        turned.append(asking.ask(vlm, again, readout, x.evaluation, "dev, images swapped", report))
    groups = swap.by_group(rows, *turned)
    out = swap.summarise(scored, groups)
    for group, rows in groups.items():
        path = run_dir / "predictions" / f"dev_swap_{group}.parquet"
        predictions.write(path, rows)
        agreement = swap.agreement(predictions.table(scored), predictions.read(path))
        out |= {} if agreement is None else summary.ends(f"swap/{group}_agreement", agreement)
    return out


def control_examples(control: str, examples: Examples, seed: int) -> Examples:
    """The examples of a split with their images taken away, encoded as the split itself is."""
    return Examples(ControlSplit(examples.split, control, seed), examples.encoder)


def verify(x: Experiment, vlm: Vlm, examples: Examples, readout: Readout, run_dir: Path) -> list[equivalence.Check]:
    """Run the equivalence gate on the first examples of dev and keep the probe's logits in the run folder."""
    samples = [examples.split[i] for i in range(min(x.evaluation.probe_examples, len(examples)))]
    with tempfile.TemporaryDirectory(prefix="lab-export-") as scratch:

        def plain(reloaded: Vlm) -> Path:
            folder = Path(scratch) / "export"
            export.export(reloaded, folder, contract.load(run_dir))
            return folder

        checks, reference = equivalence.verify(
            x, vlm, samples, examples.encoder, readout, lambda: reload(x, run_dir, vlm.device), plain
        )
    save_file({"logits": reference.contiguous()}, run_dir / PROBE)
    return checks


def stored_probe(run_dir: Path) -> torch.Tensor:
    """The probe's logits as they were when the model was trained. Raises `DataError` if they are gone or damaged."""
    try:
        logits = load_file(run_dir / PROBE)["logits"]
        if logits.ndim != 2 or not logits.is_floating_point():
            raise ValueError(f"they are {logits.dtype} of shape {list(logits.shape)}")
        return logits
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise DataError(f"{run_dir / PROBE}: the probe's logits cannot be read ({error}).") from None


def require_effect(vlm: Vlm, fresh: Vlm, examples: Examples) -> None:
    """Raise a `ModelError` if what has trained moves no logit of a probe batch.

    fresh: the arm as it was before training, over the same base: adapters are switched off for it, extra modules are new.
    """
    import torch

    batch = to_device(next(eval_batches(examples, 8)), vlm.device)
    vlm.model.eval()
    with torch.inference_mode():
        adapted = scoring.answer_logits(vlm, batch)
        with vlm.model.disable_adapter() if hasattr(vlm.model, "disable_adapter") else contextlib.nullcontext():
            bare = scoring.answer_logits(fresh, batch)
    if torch.equal(adapted, bare):
        raise ModelError(
            "lora: neither the trained adapter nor an extra module moves a logit. Was optim.lr zero, or does the target "
            "never run?"
        )
