"""A finished run, or a checkpoint of one that still trains, as a plain folder that was asked in a process without the laboratory.

Of a quantised base merging is measured both ways, as adapters learned beside dequantised weights and are often merged into others.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch.nn import ModuleDict

from lab import data, lora
from lab.answers import predictions
from lab.answers.agreement import Agreement, agreement, texts
from lab.answers.predictions import PredictionTable
from lab.artifacts import adapter, contract, export, plain_answers
from lab.config import Experiment, Quantisation
from lab.errors import ConfigError, DataError, ModelError
from lab.host.progress import Report
from lab.model import Vlm, locate, precision
from lab.model.answers import Readout
from lab.model.clips import Frames
from lab.records import Choice, Regions, Sample, Splits
from lab.run.assembly import attached, load_base, reload
from lab.run.rebuilt import Rebuilt, rebuild
from lab.store.runs import Run
from lab.training import checkpoints
from lab.training.checkpoints import BrokenCheckpoint
from lab.training.resuming import put_weights
from lab.training.screening import Kept

log = logging.getLogger(__name__)

EXAMPLES = 32
"""Questions that an export is asked."""
MOST_FLIPS = 2
"""Of them, how many a base of 16 bits or less may answer otherwise alone than in a batch; one of float32 none."""
DEQUANTISED, FULL_PRECISION = "the dequantised base", "the full-precision base"


@dataclass
class Exported:
    """What was written. vlm: the model as it lies in the folder. whole: why it is merged, or "". merging: what it changed, by base.

    into: the base of `merging` that was chosen. plain: the folder's answers in a process of its own against the model in memory.
    """

    vlm: Vlm
    whole: str
    merging: dict[str, Agreement | str] = field(default_factory=dict)
    into: str = ""
    plain: Agreement | None = None


class Exporting:
    """An arm from its files, the questions that it is asked, and what it answers."""

    def __init__(self, run: Run, x: Experiment, source: Path, scratch: Path, report: Report) -> None:
        """source: a folder with adapter and contract. Raises `ModelError` for an arm that no plain folder could hold."""
        self.x, self.source, self.scratch, self.report = x, source, scratch, report
        self.described = contract.load(source)
        answers = contract.answers_of(self.described, x.prompt)
        self.arm: Rebuilt = rebuild(run, source, x, answers, "this export", report)
        if why := export.exportable(self.arm.vlm):
            raise ModelError(f"run {run.identity} cannot be exported: {why}. lab.serve and lab.predict run it as it is.")
        splits = data.load(x.data, Path(x.tracking.cache_dir))
        dev = data.require_split(splits, "dev")
        self.splits: Splits = replace(splits, dev=Kept(dev, range(min(EXAMPLES, len(dev)))))
        self.answers = self.ask(self.arm.vlm)

    def ask(self, vlm: Vlm) -> PredictionTable:
        """What a model answers to the questions."""
        if vlm is not self.arm.vlm:
            self.arm.vlm, self.arm.effective = vlm, True  # what it does was seen before it was merged
        self.splits, rows = self.arm.ask(self.splits, "dev", self.x.data, self.report, self.scratch / "answers.part")
        return predictions.table(rows)

    def write(self, folder: Path, merged: bool) -> Exported:
        """Export into an empty folder and ask it. merged: asked for; an arm that needs it is merged anyway."""
        whole = export.needs_merging(self.arm.vlm) or ("as asked" if merged else "")
        done = Exported(self.arm.vlm, whole)
        if whole and hasattr(self.arm.vlm.model, "merge_and_unload"):
            self.merge(done)
        expected = self.ask(done.vlm) if done.merging else self.answers
        quantised = None if whole else settings_of(done.vlm)
        export.export(done.vlm, folder, self.described, merged=bool(whole))
        done.plain = self.plain(folder, done.vlm, bool(whole), quantised, expected)
        return done

    def merge(self, done: Exported) -> None:
        """Merge, of a quantised base into whatever base changes least; measured in answers, then in log-probabilities."""
        quantised = self.x.model.quantisation is not Quantisation.none
        experiments = {DEQUANTISED if quantised else FULL_PRECISION: self.x}
        if quantised:
            experiments[FULL_PRECISION] = replace(self.x, model=replace(self.x.model, quantisation=Quantisation.none))
        for name, x in experiments.items():
            try:
                vlm = reload(x, self.source, done.vlm.device) if quantised else done.vlm
            except ConfigError as error:  # a checkpoint that is quantised already has no other weights
                done.merging[name] = str(error)
                continue
            export.merge(vlm)
            done.merging[name] = outcome = agreement(self.answers, self.ask(vlm))
            best = done.merging.get(done.into)
            if not isinstance(best, Agreement) or (outcome.flips, outcome.max_gap) < (best.flips, best.max_gap):
                done.vlm, done.into = vlm, name

    def plain(self, folder: Path, vlm: Vlm, merged: bool, quantised: dict[str, Any] | None, expected: PredictionTable) -> Agreement:
        """The folder's answers in a fresh process that imports Transformers and PEFT alone, against those expected."""
        encoder, kind = self.arm.encoder, vlm.family
        samples = [self.splits.dev[i] for i in range(len(self.splits.dev))]
        job = {
            "folder": str(folder.resolve()), "class": type(vlm.base_model).__name__, "dtype": vlm.base["dtype"], "device": str(vlm.device),
            "base": None if merged else locate(vlm.base["path"]), "revision": vlm.base["revision"], "quantisation": quantised,
            "attention": self.x.model.attn_implementation or kind.attention[0], "labels": kind.answers == "classes",
            "template": {"add_vision_id": encoder.prompt.numbered},
            "call": {} if kind.architecture.adds_special_tokens else {"add_special_tokens": False},
            "max_new_tokens": self.described["answers"].get("max_new_tokens", 1), "special": encoder.readout.kind == Regions.kind,
            "to": str(self.scratch / "answers.json"),
            "questions": [self.question(sample, place) for place, sample in enumerate(samples)],
        }  # fmt: skip
        (self.scratch / "job.json").write_text(json.dumps(job), encoding="utf-8")
        command = [sys.executable, "-P", plain_answers.__file__, str(self.scratch / "job.json")]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        process = subprocess.run(command, capture_output=True, text=True, env=environment)
        if process.returncode:
            raise ModelError(f"{folder}: plain Transformers cannot run what was exported: {process.stderr.strip().splitlines()[-1]}")
        plain = json.loads((self.scratch / "answers.json").read_text(encoding="utf-8"))
        flips = sum(one != other for one, other in zip(plain, texts(expected).tolist(), strict=True))
        return Agreement(len(plain), flips, 0.0)

    def question(self, sample: Sample, place: int) -> dict[str, Any]:
        """A question as its user would ask it: pictures as files, frames of clips with their times, messages or the text of a prompt."""
        encoder, architecture = self.arm.encoder, self.arm.vlm.family.architecture
        chat, images, videos = encoder.chat(sample, plain=True), [], []
        for number, i in enumerate(chat.image_order):
            shown = encoder.plain(sample.images[i], self.arm.vlm.processor)
            path = str(self.scratch / f"{place}-{number}")
            if isinstance(shown, Frames):
                np.save(f"{path}.npy", shown.frames.numpy())
                videos.append({"frames": f"{path}.npy", "metadata": dict(shown.metadata), "size": shown.size})
            else:
                shown.save(f"{path}.png")
                images.append(f"{path}.png")
        reads, options = encoder.readout, {}
        if isinstance(reads, Readout) and isinstance(sample.answer, Choice):
            options = {option: list(reads.ids[reads.options.index(option)]) for option in sample.answer.options}
        prompt = architecture.frame(self.arm.vlm.processor, chat, encoder.prompt.numbered)[0]
        return {
            "images": images, "videos": videos, "messages": architecture.messages(chat), "text": prompt.replace("<image>", ""),
            "asked": architecture.question(chat) if architecture.reads_question else None, "options": options,
        }  # fmt: skip


def settings_of(vlm: Vlm) -> dict[str, Any] | None:
    """How bitsandbytes holds a model's weights, as `BitsAndBytesConfig` takes it; None where it holds none."""
    settings = getattr(vlm.base_model.config, "quantization_config", None)
    if settings is None:
        return None
    taken = ("load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_compute_dtype", "llm_int8_skip_modules")
    return {key: value for key, value in settings.to_dict().items() if key in taken}


def tolerated(x: Experiment, outcome: Agreement) -> bool:
    """Whether a folder's answers are the arm's."""
    return outcome.flips <= (0 if precision.exact(x.model) else MOST_FLIPS)


def of_step(x: Experiment, run_dir: Path, step: int, folder: Path) -> None:
    """Write adapter and contract of a checkpoint of a run, which goes on training meanwhile.

    Raises `DataError` for a step of which none is kept.
    """
    steps = sorted(int(each.stem.removeprefix("step-")) for each in checkpoints.saved(run_dir))
    if step not in steps:
        kept = f"kept are {', '.join(map(str, steps))}" if steps else "none is kept, as it has finished or has not come to trainer.save_every"
        raise DataError(f"--step {step}: {run_dir} has no checkpoint of it; {kept}.")
    try:
        taken = checkpoints.read(checkpoints.of_step(run_dir, step))
    except BrokenCheckpoint as error:
        raise DataError(f"--step {step}: {error}.") from None
    with attached(x, load_base(x)) as vlm:
        put_weights(ModuleDict({"model": vlm.model, "extras": ModuleDict(vlm.extras)}), taken)  # as `Learner` names them
        lora.finalize_adapter(vlm)
        adapter.save(vlm, folder / "adapter")
    contract.save(folder, contract.load(run_dir))
