"""From a frozen config to results: the one place that names all six dials.

`prepare` builds what arms share (base, features, tokenised data); `run_arm` attaches, trains and measures one arm in a run
folder. A run alone and an arm of a sweep go through the same two functions.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import socket
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lab import adapter, conditioning, contract, data, export, lora, model, runs, vision_tokens
from lab.config import Experiment, as_dict, identity, trains
from lab.data.controls import ControlSplit
from lab.errors import DataError, ModelError
from lab.evaluation import equivalence, generation, latency, metrics, predictions, scoring, swap
from lab.model import Vlm
from lab.model.answers import AnswerTokens, answer_tokens
from lab.model.encoding import Encoder, to_device
from lab.progress import Report, silent
from lab.records import Prediction, Splits
from lab.runs import Run
from lab.training import loop
from lab.training.datamodule import Examples, eval_batches
from lab.training.features import FeatureStore

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

PROBE = "probe.safetensors"
LATENCY_ROUNDS = 3
SPLITS = ("train", "minival", "dev")


def assemble(x: Experiment, base: Vlm) -> Vlm:
    """An arm's own model over a shared base, as the paper's figure has it; `lora.attach` comes last (`run_arm`)."""
    vlm = base.share()
    vision_tokens.install(vlm, x.vision_tokens, x.seed)
    conditioning.install(vlm, x.conditioning, x.seed)
    return vlm


@dataclass
class Prepared:
    """What the arms of a group share: the frozen base, the data, the features, the tokenised prompts."""

    vlm: Vlm
    splits: Splits
    examples: dict[str, dict[str, Examples]] = field(default_factory=dict)
    stores: dict[str, FeatureStore] = field(default_factory=dict)

    def encoded(self, x: Experiment, report: Report = silent) -> dict[str, Examples]:
        """The splits, tokenised with the experiment's prompt and token budget; built once per such pair."""
        key = encoding_key(x)
        if key not in self.examples:
            vlm = assemble(x, self.vlm)
            encoder = Encoder(vlm, x.prompt, x.seed)
            made = {name: Examples(getattr(self.splits, name), encoder) for name in needed_splits(x)}
            for examples in made.values():
                if len(examples):
                    encoder.picture(examples.split[0].images[0])
                examples.prepare(self.store(x, vlm, encoder), vlm, report)
            self.examples[key] = made
        return self.examples[key]

    def store(self, x: Experiment, vlm: Vlm, encoder: Encoder) -> FeatureStore | None:
        """The features of the frozen tower, one store for each way of preprocessing; None where they cannot be kept."""
        if not x.trainer.feature_cache or tower_trains(x) or not vlm.family.single_output:
            return None
        key = json.dumps(encoder.settings(), sort_keys=True, default=str)
        if key not in self.stores:
            self.stores[key] = FeatureStore(Path(x.tracking.cache_dir), vlm, encoder)
        return self.stores[key]


def needed_splits(x: Experiment) -> tuple[str, ...]:
    """The zero-shot baseline reads no training data."""
    return SPLITS if trains(x) else ("minival", "dev")


def shared_key(x: Experiment) -> str:
    """Arms with one key share base, features and data: what `vision_tokens` and `conditioning` add is each arm's own."""
    values = as_dict(x)
    kept = {name: values[name] for name in ("model", "data")}
    kept["tower trains"] = tower_trains(x)
    kept["cache"] = x.trainer.feature_cache
    return digest(kept)


def encoding_key(x: Experiment) -> str:
    """Arms with one key, of one group, share tokenised data too."""
    values = as_dict(x)
    order_seed = x.seed if values["prompt"]["image_order"] == "random" else None
    kept = {name: values[name] for name in ("prompt", "vision_tokens", "conditioning")}
    return digest({**kept, "order seed": order_seed, "trains": trains(x), "tower trains": tower_trains(x)})


def digest(values: dict[str, Any]) -> str:
    """16 hexadecimal digits that name plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


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
        if name != "minival":
            data.demand(splits, name)
    base = model.load(x.model)
    if x.trainer.accelerator != "cpu" and torch.cuda.is_available():
        base.model.to("cuda")
    if x.trainer.feature_cache and tower_trains(x):
        what = f"lora.where={list(x.lora.where)}" if x.lora.target_modules in lora.PRESETS else f"lora.target_modules={x.lora.target_modules}"
        log.warning("features are not cached: %s may change the tower or its projector", what)
    elif x.trainer.feature_cache and not base.family.single_output:
        log.warning("features are not cached: the tower of model.family=%s gives more than one tensor an image", x.model.family)
    prepared = Prepared(base, splits)
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
    prepared.encoded(x, report)  # before adapters sit in the tower
    with attached(x, prepared) as vlm:
        train_and_measure(x, vlm, prepared, run, run_dir, started, report)
    run.status, run.ended = runs.FINISHED, runs.now()
    runs.save(runs_dir, run)
    return run


@contextlib.contextmanager
def attached(x: Experiment, prepared: Prepared) -> Iterator[Vlm]:
    """An arm's model with fresh adapters; whatever happens, the shared base is left as it was."""
    vlm = assemble(x, prepared.vlm)
    lora.attach(vlm, x.lora, x.seed)
    try:
        yield vlm
    finally:
        lora.detach(vlm)
        prepared.vlm.model = vlm.model


def train_and_measure(
    x: Experiment, vlm: Vlm, prepared: Prepared, run: Run, run_dir: Path, started: float, report: Report
) -> None:
    """Fill a run's record with what one arm's model counts, learns and answers."""
    encoded = prepared.encoded(x, report)
    ledger = lora.ledger(vlm)
    log.info("parameters\n%s", lora.ledger_text(ledger))
    tokens = answer_tokens(vlm.processor.tokenizer, x.prompt)
    run.facts = {"data": data_facts(x, prepared, encoded), "ledger": lora.ledger_facts(ledger), "versions": versions()}
    run.metrics = {
        "parameters/total": float(sum(row.total for row in ledger)),
        "parameters/trainable": float(sum(row.trainable for row in ledger)),
    }
    run.metrics["flops/added_per_example"] = added_flops(vlm, encoded["dev"])
    runs.save(Path(x.tracking.runs_dir), run)
    described = contract.describe(x, vlm, encoded["dev"].encoder, tokens)
    contract.save(run_dir, described)
    if trains(x):
        run.metrics |= loop.train(x, vlm, encoded, run_dir, started, report)
        lora.settle(vlm)
        require_effect(vlm, assemble(x, prepared.vlm), encoded["dev"])
        adapter.save(vlm, run_dir / "adapter")
    run.metrics |= evaluate(x, vlm, encoded, tokens, run_dir, report)
    realised = {key: run.metrics[f"visual_tokens/{key}"] for key in ("mean", "min", "max")}
    contract.save(run_dir, {**described, "visual_tokens": realised})
    if x.evaluation.verify:
        checks = verify(x, vlm, encoded["dev"], tokens, run_dir)
        run.metrics |= equivalence.summary(checks)
        run.facts["verify"] = equivalence.facts(checks)
        log.info("equivalence gate\n%s", equivalence.table(checks))


def evaluate(
    x: Experiment, vlm: Vlm, encoded: dict[str, Examples], tokens: AnswerTokens, run_dir: Path, report: Report
) -> dict[str, float]:
    """Score minival and dev, write their predictions, measure latency and memory; return the summary numbers."""
    out: dict[str, float] = {}
    section = x.evaluation
    looked_at = {name: encoded[name] for name in ("minival", "dev") if len(encoded[name])}
    looked_at |= {f"dev_{name}": control_examples(name, encoded["dev"], x.seed) for name in section.controls}
    for name, examples in looked_at.items():
        scored = scoring.score(vlm, examples, tokens, section.batch_size, name, report)
        path = run_dir / "predictions" / f"{name}.parquet"
        predictions.write(path, scored)
        out |= {f"{name}/{key}": value for key, value in metrics.summarise(predictions.read(path)).items()}
        if name == "dev":
            counts = [count for row in scored for count in row.visual_tokens]
            out["visual_tokens/mean"] = sum(counts) / len(counts)
            out["visual_tokens/min"], out["visual_tokens/max"] = float(min(counts)), float(max(counts))
            if section.generate:
                texts = generation.generate(vlm, examples, x.prompt, section.batch_size, name, report)
                out |= {f"dev/{key}": value for key, value in generation.compare(texts, scored).items()}
            if section.swap:
                out |= swapped(x, vlm, examples, scored, tokens, run_dir, report)
    report("measuring latency", 0, 1, "")
    out |= latency.measure(vlm, encoded["dev"], section.latency_warmup, section.latency_examples, section.batch_size)
    out["memory/peak_mb"] = latency.peak_memory_mb(vlm.device)
    report("measuring latency", 1, 1, "")
    return out


def added_flops(vlm: Vlm, examples: Examples) -> float:
    """Operations that `vision_tokens` and `conditioning` add to a forward pass, mean over the first examples."""
    batch = next(eval_batches(examples, 8))
    return vision_tokens.extra_flops_per_example(vlm, batch) + conditioning.extra_flops_per_example(vlm, batch)


def swapped(
    x: Experiment, vlm: Vlm, examples: Examples, scored: list[Prediction], tokens: AnswerTokens, run_dir: Path, report: Report
) -> dict[str, float]:
    """Score dev with its images in the other order, side words swapped and kept; write each group, return the agreement."""
    turned = []
    for rename in (True, False):
        again = Examples(swap.SwappedSplit(examples.split, rename), examples.encoder)
        again.prepare(examples.store, vlm)
        turned.append(scoring.score(vlm, again, tokens, x.evaluation.batch_size, "dev, images swapped", report))
    groups = swap.by_group(examples.split, *turned)
    for group, rows in groups.items():
        predictions.write(run_dir / "predictions" / f"dev_swap_{group}.parquet", rows)
    return swap.summarise(scored, groups)


def control_examples(control: str, examples: Examples, seed: int) -> Examples:
    """The examples of a split with their images taken away, encoded as the split itself is."""
    return Examples(ControlSplit(examples.split, control, seed), examples.encoder)


def verify(x: Experiment, vlm: Vlm, examples: Examples, tokens: AnswerTokens, run_dir: Path) -> list[equivalence.Check]:
    """Run the equivalence gate on the first examples of dev and keep the probe's logits in the run folder."""
    samples = [examples.split[i] for i in range(min(x.evaluation.probe_examples, len(examples)))]
    with tempfile.TemporaryDirectory(prefix="lab-export-") as scratch:

        def plain(model_to_export: Vlm) -> Path:
            folder = Path(scratch) / "export"
            export.export(model_to_export, folder, contract.load(run_dir))
            return folder

        checks, reference = equivalence.verify(
            x, vlm, samples, examples.encoder, tokens, lambda: reload(x, run_dir, vlm.device), plain
        )
    save_file({"logits": reference.contiguous()}, run_dir / PROBE)
    return checks


def reload(x: Experiment, run_dir: Path, device: torch.device | str = "cpu") -> Vlm:
    """The trained model of a run folder, from its files alone."""
    vlm = assemble(x, model.load(x.model))
    if trains(x):
        adapter.load(vlm, run_dir / "adapter")
    vlm.model.to(device)
    return vlm


def stored_probe(run_dir: Path) -> torch.Tensor:
    """The probe's logits as they were when the model was trained. Raises `DataError` if they are gone or damaged."""
    try:
        return load_file(run_dir / PROBE)["logits"]
    except (OSError, KeyError, SafetensorError) as error:
        raise DataError(f"{run_dir / PROBE}: the probe's logits cannot be read ({error}).") from None


@contextlib.contextmanager
def trained(x: Experiment, prepared: Prepared, run_dir: Path) -> Iterator[Vlm]:
    """A finished arm's model over the shared base, which is left as it was."""
    vlm = assemble(x, prepared.vlm)
    try:
        if trains(x):
            adapter.load(vlm, run_dir / "adapter")
        yield vlm
    finally:
        lora.detach(vlm)
        prepared.vlm.model = vlm.model


def interleaved_latency(arms: Sequence[tuple[Experiment, Run]], prepared: Prepared, report: Report = silent) -> None:
    """Measure the latency of finished arms again, in turn on a machine that does nothing else, and rewrite their records.

    Each of `LATENCY_ROUNDS` rounds visits every arm, so that a drift of the machine's speed falls on all alike.
    """
    looks: dict[str, list[latency.Look]] = {run.identity: [] for _, run in arms}
    for done in range(LATENCY_ROUNDS * len(arms)):
        x, run = arms[done % len(arms)]
        section = x.evaluation
        share = max(1, section.latency_examples // LATENCY_ROUNDS)
        with trained(x, prepared, runs.folder(Path(x.tracking.runs_dir), run.identity)) as vlm:
            dev = prepared.encoded(x)["dev"]
            looks[run.identity].append(latency.look(vlm, dev, section.latency_warmup, share, section.batch_size))
        report("latency of the arms in turn (visits)", done + 1, LATENCY_ROUNDS * len(arms), "")
    for x, run in arms:
        run.metrics |= latency.summarise(looks[run.identity])
        runs.save(Path(x.tracking.runs_dir), run)


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
