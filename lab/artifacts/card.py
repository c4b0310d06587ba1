"""The model card of an exported folder, `README.md`: task, data, metrics, contract, licence of the base, how it is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lab import __version__
from lab.answers.predictions import PredictionTable
from lab.benchmark_specs import SPECS
from lab.errors import LabError
from lab.host.redaction import without_secrets
from lab.model import Vlm, locate
from lab.model.identity import located
from lab.statistics.intervals import intervals
from lab.statistics.metrics import KINDS
from lab.store.runs import Run


def text(
    run: Run, vlm: Vlm, described: Mapping[str, Any], merged: bool, sentences: Sequence[str], step: int | None, dev: PredictionTable | None,
    benchmarks: Mapping[str, Mapping[str, Any]],
) -> str:  # fmt: skip
    """The card as Markdown. merged: it holds the whole model. sentences: what was measured of the export. dev: the run's answers.

    benchmarks: what its replies to each came to, as `RUN/evaluations/<set>.json` holds it.
    """
    base, licence = vlm.base["path"], licence_of(vlm)
    contract = {key: described.get(key) for key in ("prompt", "answers", "processor", "base")}
    measured = model_index(run, dev, benchmarks) if step is None else {}
    unknown = f"The base's licence was not found beside it. Look at `{base}` before you pass this on."
    paragraphs = [
        f"---\n{yaml.safe_dump(head(vlm, merged, licence) | measured, sort_keys=False)}---",
        f"# {run.name}",
        f"{'A whole model' if merged else 'A LoRA adapter'} of `{base}`, trained and exported by vlm-lab {__version__}"
        f"{'' if step is None else f', as it was after {step} optimizer steps of a training that went on'}.",
        "## Task and data", *task(run, described),
        "## Metrics", metrics(run, dev) if step is None and dev is not None else "None were measured of this step.",
        "## Use", fenced("python", use(vlm, described, merged)),
        "Ask it as it was trained: the prompt below through the folder's chat template, greedily, with the folder's own processor.",
        "## Contract", fenced("json", json.dumps(contract, indent=1)),
        "## Of the export", "\n".join(f"- {line}" for line in sentences),
        "## Licence", unknown if licence is None else f"The base says: {licence}.",
    ]  # fmt: skip
    return without_secrets("\n\n".join(paragraphs)) + "\n"


def head(vlm: Vlm, merged: bool, licence: str | None) -> dict[str, Any]:
    """What a hub reads of a card."""
    based = {"base_model": vlm.base["path"], "base_model_relation": "finetune" if merged else "adapter"}
    return {
        **(based if is_hub_id(vlm.base["path"]) else {}),
        "license": licence or "other",
        "library_name": "transformers" if merged else "peft",
        "pipeline_tag": "image-text-to-text" if vlm.family.answers == "inline" else "visual-question-answering",
        "tags": ["vlm-lab"],
    }


def model_index(run: Run, dev: PredictionTable | None, benchmarks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What was measured as a hub reads it (https://github.com/huggingface/hub-docs/blob/main/modelcard.md): a result for each data set."""
    results = []
    if dev is not None:
        kind = KINDS[dev.kind]
        values = [(name, metric.header, metric.of(dev)) for name in kind.shown if (metric := kind.metrics[name]).only(dev)]
        results.append(result(run.config["data"]["name"], "vlm-lab", {"split": "dev"}, values))
    for name, found in benchmarks.items():
        spec, rule = SPECS[found["data"]], found["rule"]
        said = f"{spec.headline}, rule {rule['name']} version {rule['version']}, profile {found['profile']}, n={found['n']} of {found['n_official']}"
        where = {"config": found["source"].partition(" ")[0], "split": found["source"].rpartition(" ")[2]}
        values = [(spec.headline, said, found["metrics"][spec.headline])]
        results.append(result(spec.title if name == found["data"] else name, spec.hub, where, values))
    return {"model-index": [{"name": run.name, "results": results}]} if any(one["metrics"] for one in results) else {}


def result(name: str, data: str, where: Mapping[str, str], metrics: Sequence[tuple[str, str, float]]) -> dict[str, Any]:
    """One data set of a model index; metrics: type, name and value, of which undefined ones are left out."""
    found = [{"type": kind, "name": said, "value": float(value)} for kind, said, value in metrics if math.isfinite(value)]
    task = {"type": "visual-question-answering", "name": "Visual Question Answering"}
    return {"task": task, "dataset": {"name": name, "type": data, **where}, "metrics": found}


def use(vlm: Vlm, described: Mapping[str, Any], merged: bool) -> str:
    """How the folder is loaded, in Python."""
    kind, dtype = type(vlm.base_model).__name__, vlm.base["dtype"]
    quantised = None if merged else quantised_as(described["base"])
    names = ["AutoProcessor", kind, *(["BitsAndBytesConfig"] if quantised else [])]
    lines = [f"from transformers import {', '.join(names)}"]
    if merged:
        lines += ["", f'model = {kind}.from_pretrained(FOLDER, dtype="{dtype}")']
    else:
        held = f", quantization_config={quantised}" if quantised else ""
        lines += ["from peft import PeftModel", "", f'base = {kind}.from_pretrained("{locate(vlm.base["path"])}", dtype="{dtype}"{held})']
        lines.append("model = PeftModel.from_pretrained(base, FOLDER)")
    return "\n".join([*lines, "processor = AutoProcessor.from_pretrained(FOLDER)"])


def fenced(language: str, code: str) -> str:
    """A block of code in Markdown."""
    return f"```{language}\n{code}\n```"


def is_hub_id(path: str) -> bool:
    """Whether a checkpoint is named as on the hub, and no folder or shipped one."""
    return path.count("/") == 1 and not Path(path).exists() and not path.startswith((".", "/", "~"))


def quantised_as(base: Mapping[str, Any]) -> str | None:
    """The settings that quantise a base as that of a contract; None where it is not."""
    if base["quantisation"] == "int8":
        return "BitsAndBytesConfig(load_in_8bit=True)"
    if base["quantisation"] != "nf4":
        return None
    compute = f'bnb_4bit_use_double_quant={base["double_quantisation"]}, bnb_4bit_compute_dtype="{base["dtype"]}"'
    return f'BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", {compute})'


def licence_of(vlm: Vlm) -> str | None:
    """What the card of the base says; None where it has none, or says nothing."""
    path = located(locate(vlm.base["path"]), "README.md", vlm.base["revision"])
    parts = Path(path).read_text(encoding="utf-8", errors="replace").split("---\n", 2) if path is not None else []
    try:
        head = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else {}
    except yaml.YAMLError:
        return None
    licence = head.get("license") if isinstance(head, dict) else None
    return str(licence) if licence else None


def task(run: Run, described: Mapping[str, Any]) -> list[str]:
    """What is asked, of which data, and how it was trained."""
    data, facts = run.config["data"], run.facts.get("data", {})
    counts = ", ".join(f"{number:,} {split}" for split, number in facts.get("counts", {}).items())
    lora, optim, trainer = (run.config[name] for name in ("lora", "optim", "trainer"))
    return [
        f"Answers of the kind {described['answers']['kind']} to questions about pictures: data `{data['name']}`"
        f"{f' ({counts})' if counts else ''}, prompt `{described['prompt']['template']}`.",
        *(f"It learned `{name}` beside them: answers of the kind {part['answers']['kind']}, prompt `{part['prompt']['template']}`."
          for name, part in [*described.get("mixture", {}).items()][1:]),
        f"LoRA r={lora['r']} (`{lora['name']}`: {', '.join(lora['where'])}), {optim['optimizer']} at {optim['lr']:g}, "
        f"{trainer['max_steps'] or trainer['max_epochs']} {'steps' if trainer['max_steps'] else 'epochs'} of "
        f"{trainer['batch_size'] * trainer['accumulate_grad_batches']}: `{run.command}`.",
    ]


def metrics(run: Run, dev: PredictionTable) -> str:
    """What a report shows of dev, with 95 % intervals where it has them."""
    shown = KINDS[dev.kind].shown
    try:
        found = intervals([dev], shown)[0]
        ends = {name: f"{one.low:.4f} to {one.high:.4f}" if one.has_ends else one.method for name, one in found.items()}
        rows = [f"| {name} | {one.estimate:.4f} | {ends[name]} |" for name, one in found.items()]
    except LabError as error:
        rows = [f"| {name} | {run.metrics[f'dev/{name}']:.4f} | {error} |" for name in shown if f"dev/{name}" in run.metrics]
    what = f"On dev, {len(dev):,} questions; intervals know which share pictures."
    return "\n".join([what, "", "| metric | | 95 % interval |", "| --- | --- | --- |", *rows])
