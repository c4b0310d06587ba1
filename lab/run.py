"""From a frozen config to results: the one place that names all six dials.

`prepare` builds what arms share (base, features, tokenised data); `run_arm` attaches, trains and measures one arm in a run
folder. A run alone and an arm of a sweep go through the same two functions.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import adapter, conditioning, contract, data, lora, model, runs, vision_tokens
from lab.config import Experiment, as_dict, identity, trains
from lab.errors import DataError, ModelError
from lab.evaluation import latency, metrics, predictions, scoring
from lab.model import Vlm
from lab.model.answers import AnswerTokens, answer_tokens
from lab.model.encoding import Encoder, check_budget, to_device
from lab.progress import Report, silent
from lab.records import Splits
from lab.runs import Run
from lab.training import loop
from lab.training.datamodule import Examples, eval_batches
from lab.training.features import FeatureStore

log = logging.getLogger(__name__)

SPLITS = ("train", "minival", "dev")


def assemble(x: Experiment) -> Vlm:
    """The model of an experiment, as the paper's figure has it; `lora.attach` comes last and per arm (`run_arm`)."""
    vlm = model.load(x.model)
    vision_tokens.install(vlm, x.vision_tokens)
    conditioning.install(vlm, x.conditioning)
    return vlm


@dataclass
class Prepared:
    """What the arms of a group share: the frozen base, the data, the features, the tokenised prompts."""

    vlm: Vlm
    splits: Splits
    store: FeatureStore | None
    examples: dict[str, dict[str, Examples]] = field(default_factory=dict)

    def encoded(self, x: Experiment, report: Report = silent) -> dict[str, Examples]:
        """The splits, tokenised with the experiment's prompt; built once per prompt."""
        key = shared_key(x, with_prompt=True)
        if key not in self.examples:
            encoder = Encoder(self.vlm, x.prompt, x.seed)
            made = {name: Examples(getattr(self.splits, name), encoder) for name in needed_splits(x)}
            for examples in made.values():
                if len(examples):
                    check_budget(encoder, examples.split[0].images[0], x.vision_tokens.budget)
                examples.prepare(self.store, self.vlm, report)
            self.examples[key] = made
        return self.examples[key]


def needed_splits(x: Experiment) -> tuple[str, ...]:
    """The zero-shot baseline reads no training data."""
    return SPLITS if trains(x) else ("minival", "dev")


def shared_key(x: Experiment, with_prompt: bool = False) -> str:
    """Arms with one key share base, features and data; with the prompt, tokenised data too."""
    values = as_dict(x)
    kept = {name: values[name] for name in ("model", "data", "vision_tokens", "conditioning")}
    kept["tower trains"] = tower_trains(x)
    kept["cache"] = x.trainer.feature_cache
    if with_prompt:
        kept["prompt"] = [values["prompt"], x.seed if values["prompt"]["image_order"] == "random" else None, trains(x)]
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def tower_trains(x: Experiment) -> bool:
    """Whether adapters sit in the tower or the projector, so that their output cannot be cached."""
    presets = x.lora.target_modules in lora.PRESETS
    return x.lora.r > 0 and (not presets or bool({"vision", "projector"} & set(x.lora.where)))


def prepare(x: Experiment, report: Report = silent) -> Prepared:
    """Load the data and the base of a group of arms. All that is wrong with them is said here, before any training."""
    import torch

    torch.set_num_threads(x.trainer.threads)
    cache = Path(x.tracking.cache_dir)
    splits = data.load(x.data, cache)
    for note in splits.notes:
        log.info("data: %s", note)
    if splits.skipped:
        log.warning("data: %d records are skipped (data.on_bad=skip); see facts.data.skipped in run.json", len(splits.skipped))
    for name in needed_splits(x):
        if not len(getattr(splits, name)) and name != "minival":
            raise DataError(f"data={x.data.name}: the {name} split is empty. {' '.join(splits.notes)}")
    vlm = assemble(x)
    if x.trainer.accelerator != "cpu" and torch.cuda.is_available():
        vlm.model.to("cuda")
    store = None
    if x.trainer.feature_cache and tower_trains(x):
        log.warning("features are not cached: lora.where=%s trains the tower or its projector", list(x.lora.where))
    elif x.trainer.feature_cache:
        store = FeatureStore(cache, vlm, Encoder(vlm, x.prompt, x.seed))
    prepared = Prepared(vlm, splits, store)
    prepared.encoded(x, report)
    return prepared


def new_run(x: Experiment, command: str, sweep: str | None = None) -> Run:
    """A run record that has not started."""
    return Run(identity=identity(x), name=identity(x), config=as_dict(x), command=command, sweep=sweep)


def run_arm(x: Experiment, prepared: Prepared, run: Run, started: float, report: Report = silent) -> Run:
    """Attach, train and measure one arm; write everything to its run folder and return the finished record.

    started: Unix time at which the command began, for the time to the first metric.
    """
    runs_dir = Path(x.tracking.runs_dir)
    run_dir = runs.folder(runs_dir, run.identity)
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "curves.jsonl").unlink(missing_ok=True)
    run.started, run.status, run.error = runs.now(), runs.RUNNING, None
    run.process = {"pid": os.getpid(), "host": socket.gethostname()}
    runs.save(runs_dir, run)
    encoded = prepared.encoded(x, report)
    vlm = prepared.vlm.share()
    lora.attach(vlm, x.lora, x.seed)
    ledger = lora.ledger(vlm)
    log.info("parameters\n%s", lora.ledger_text(ledger))
    tokens = answer_tokens(vlm.processor.tokenizer, x.prompt)
    run.facts = {"data": data_facts(x, prepared, encoded), "ledger": lora.ledger_facts(ledger), "versions": versions()}
    run.metrics = {
        "parameters/total": float(sum(row.total for row in ledger)),
        "parameters/trainable": float(sum(row.trainable for row in ledger)),
    }
    runs.save(runs_dir, run)
    contract.save(run_dir, contract.describe(x, vlm, encoded["dev"].encoder, tokens))
    if trains(x):
        run.metrics |= loop.train(x, vlm, encoded, run_dir, started, report)
        require_effect(vlm, encoded["dev"])
        adapter.save(vlm, run_dir / "adapter")
    run.metrics |= evaluate(x, vlm, encoded, tokens, run_dir, report)
    run.status, run.ended = runs.FINISHED, runs.now()
    runs.save(runs_dir, run)
    if hasattr(vlm.model, "unload"):
        prepared.vlm.model = vlm.model.unload()
    return run


def evaluate(
    x: Experiment, vlm: Vlm, encoded: dict[str, Examples], tokens: AnswerTokens, run_dir: Path, report: Report
) -> dict[str, float]:
    """Score minival and dev, write their predictions, measure latency and memory; return the summary numbers."""
    out: dict[str, float] = {}
    for name in ("minival", "dev"):
        if not len(encoded[name]):
            continue
        scored = scoring.score(vlm, encoded[name], tokens, x.evaluation.batch_size, name, report)
        path = run_dir / "predictions" / f"{name}.parquet"
        predictions.write(path, scored)
        out |= {f"{name}/{key}": value for key, value in metrics.summarise(predictions.read(path)).items()}
        if name == "dev":
            counts = [count for row in scored for count in row.visual_tokens]
            out["visual_tokens/mean"] = sum(counts) / len(counts)
            out["visual_tokens/min"], out["visual_tokens/max"] = float(min(counts)), float(max(counts))
    report("measuring latency", 0, 1, "")
    section = x.evaluation
    out |= latency.measure(vlm, encoded["dev"], section.latency_warmup, section.latency_examples, section.batch_size)
    out["memory/peak_mb"] = latency.peak_memory_mb(vlm.device)
    report("measuring latency", 1, 1, "")
    return out


def require_effect(vlm: Vlm, examples: Examples) -> None:
    """Raise a `ModelError` if switching the trained adapter off moves no logit of a probe batch."""
    import torch

    batch = to_device(next(eval_batches(examples, 8)), vlm.device)
    vlm.model.eval()
    with torch.inference_mode():
        adapted = scoring.answer_logits(vlm, batch)
        with vlm.model.disable_adapter():
            bare = scoring.answer_logits(vlm, batch)
    if torch.equal(adapted, bare):
        raise ModelError("lora: the trained adapter moves no logit. Was optim.lr zero, or does its target never run?")


def data_facts(x: Experiment, prepared: Prepared, encoded: dict[str, Examples]) -> dict[str, Any]:
    """Counts, hashes of samples and of their order, notes and skipped records: what makes arms comparable."""
    steps = loop.num_steps(x, len(encoded["train"])) if trains(x) else 0
    seen = steps * x.trainer.batch_size * x.trainer.accumulate_grad_batches
    return {
        "counts": {name: len(getattr(prepared.splits, name)) for name in SPLITS},
        "samples": {name: data.fingerprint(getattr(prepared.splits, name)) for name in SPLITS},
        "order": {"seed": x.seed, "examples_seen": seen},
        "notes": list(prepared.splits.notes),
        "skipped": len(prepared.splits.skipped),
        "skipped_records": [[record.source, record.reason] for record in prepared.splits.skipped[:200]],
    }


def versions() -> dict[str, str]:
    """The libraries, the interpreter and the machine behind a run."""
    names = (*contract.LIBRARIES, "lightning", "datasets", "hydra-core", "mlflow", "numpy")
    found = {name: importlib.metadata.version(name) for name in names}
    return {**found, "python": platform.python_version(), "platform": platform.platform()}


def run_alone(x: Experiment, command: str, started: float, report: Report = silent) -> Run:
    """One experiment in this process, unless it is finished already (`trainer.if_finished`)."""
    known = runs.load(Path(x.tracking.runs_dir), identity(x))
    if reusable(x, known):
        assert known is not None
        return known
    prepared = prepare(x, report)
    lora.verify(prepared.vlm, x.lora)
    run = new_run(x, command)
    try:
        return run_arm(x, prepared, run, started, report)
    except BaseException as error:
        fail(x, run, error)
        raise


def reusable(x: Experiment, known: Run | None) -> bool:
    """Whether a finished run of this identity stands in for training it again."""
    return known is not None and known.status == runs.FINISHED and x.trainer.if_finished.value == "reuse"


def fail(x: Experiment, run: Run, error: BaseException) -> None:
    """Record why a run stopped."""
    stopped = isinstance(error, KeyboardInterrupt | SystemExit)
    run.status = runs.KILLED if stopped else runs.FAILED
    run.error = f"{type(error).__name__}: {error}"
    run.ended = runs.now()
    runs.save(Path(x.tracking.runs_dir), run)


def seconds_since(started: float) -> float:
    """Seconds since a Unix time."""
    return time.time() - started
