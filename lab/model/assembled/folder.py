"""The folder of an assembled model: made once, whole or not at all, and held to its sources before anybody reads it.

    <cache_dir>/assembled/<key>/     a plain checkpoint in Hugging Face layout, and assembly.json; key: hash of both sources' weights
                                     and of every choice
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.config import ModelDial
from lab.errors import ModelError
from lab.host.files import values_hash
from lab.host.progress import Report, silent
from lab.model.assembled import sources, weights
from lab.model.assembled.draft import Draft, draft
from lab.model.family import Family
from lab.model.identity import WEIGHTS, WRITTEN_BY, weight_files
from lab.model.tying import HEAD, torn

log = logging.getLogger(__name__)

FACTS = "assembly.json"
VERSION = 1
"""Of how models are put together; a folder of another is made anew."""
TOLERANCE = 1e-6
"""Largest difference of a logit of text alone, in float32, between an assembled model and its language model."""
TEXT_TOKENS = 24


def folder_of(dial: ModelDial, family: Family, cache_dir: Path, report: Report = silent) -> Path:
    """The folder of the model that the dial asks for, which is made if it is not there.

    Raises `ConfigError` or `ModelError` for sources that cannot be put together, each with its own sentence.
    """
    plan = draft(dial)
    key = {
        "version": VERSION, "family": family.name, "vision": plan.vision.hash(cache_dir, report), "llm": plan.llm.hash(cache_dir, report),
        "projector_init": dial.projector_init.value, "config": plan.config.to_dict(), "processor": plan.processor.to_dict(),
        "template": plan.processor.chat_template, "vocabulary": sorted(plan.processor.tokenizer.get_vocab().items()),
        "generation": plan.generation.to_dict(),
    }  # fmt: skip
    made = cache_dir.resolve() / "assembled" / values_hash(contents(key))
    with alone(made):
        if not (made / FACTS).is_file():
            make(plan, family, dial, made, {name: key[name] for name in ("vision", "llm")})
    return made


def contents(values: Any) -> Any:
    """Plain values without what says who wrote them and where they lay."""
    if isinstance(values, dict):
        return {key: contents(value) for key, value in values.items() if key not in WRITTEN_BY}
    return values


@contextlib.contextmanager
def alone(made: Path) -> Iterator[None]:
    """Within, no other process makes the same folder; who waits finds it made."""
    made.parent.mkdir(parents=True, exist_ok=True)
    with (made.parent / f".{made.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within, Transformers says nothing of tensors that a source has beside its tower, and shows no bars; `weights` accounts for them."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)


def make(plan: Draft, family: Family, dial: ModelDial, made: Path, hashes: dict[str, str]) -> None:
    """Write the folder beside its place, hold it to its sources, and move it there."""
    with quiet(), tempfile.TemporaryDirectory(dir=made.parent, prefix=f".{made.name}.") as scratch:
        folder = Path(scratch) / "model"
        told = weights.write(plan, family, dial, folder)
        require_layout(plan, folder)
        facts = {
            "vision_from": {"path": plan.vision.where, "weights": hashes["vision"]}, "llm_from": {"path": plan.llm.where, "weights": hashes["llm"]},
            "projector_init": dial.projector_init.value, **plan.facts, "tokens_added": plan.tokens_added, **told,
            "text_only_difference": text_only_difference(plan, folder),
        }  # fmt: skip
        require_same_text(plan, facts["text_only_difference"])
        (folder / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        if made.exists():  # left by a version that had no facts
            shutil.rmtree(made)
        folder.rename(made)
    log.info("%s", told_of(facts, made))


def told_of(facts: dict[str, Any], made: Path) -> str:
    """What was put together, in lines."""
    fresh = facts["fresh"] + facts["cropped"]
    lines = [
        f"assembled: tower of {facts['vision_from']['path']}, language model of {facts['llm_from']['path']}, in {made}",
        f"  text alone: logits differ from the language model's by at most {facts['text_only_difference']:.3g}",
        f"  projector: {len(facts['fresh'])} tensors fresh, {len(facts['cropped'])} cropped: {', '.join(fresh) or 'none'}",
    ]
    return "\n".join(lines + ([f"  tokens added to the tokenizer: {', '.join(facts['tokens_added'])}"] if facts["tokens_added"] else []))


def text_only_difference(plan: Draft, folder: Path) -> float:
    """Largest difference of a logit between the written folder and the language model's own, float32, of a text without pictures."""
    import torch
    import transformers

    options: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True, "attn_implementation": "eager"}
    step = max(1, plan.old_rows // TEXT_TOKENS)
    ids = torch.arange(1, plan.old_rows, step)[None, :TEXT_TOKENS]
    ids = ids[ids != image_id(plan)][None]
    logits = []
    for name, where in (("AutoModelForCausalLM", plan.llm.where), (plan.model_class, str(folder))):  # one after another: one of them fits
        model = getattr(transformers, name).from_pretrained(where, **options).eval()
        with torch.no_grad():
            logits.append(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[..., : plan.old_rows])
        del model
    return float((logits[0] - logits[1]).abs().max())


def image_id(plan: Draft) -> int:
    """Of the placeholder of a picture."""
    return plan.processor.image_token_id


def require_same_text(plan: Draft, difference: float) -> None:
    """Raise a `ModelError` for an assembled model that reads text otherwise than its language model."""
    if not difference <= TOLERANCE:  # also of nan
        raise ModelError(
            f"{plan.llm.spelled}: assembled, text alone has logits that differ by {difference:.3g} from its own, more than {TOLERANCE:g}: a value of "
            "its config.json has no counterpart in the assembled one. Nothing is kept; give another language model."
        )


def require_layout(plan: Draft, folder: Path) -> None:
    """Raise a `ModelError` where the written files are not what both tie flags say, or hold other names than the tower's published ones."""
    files = weight_files(str(folder), None)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tied = bool(plan.llm.config.tie_word_embeddings)
    flags = [bool(each.get("tie_word_embeddings", default)) for each, default in ((config, True), (config["text_config"], tied))]
    names = sources.Source("", str(folder), plan.config, tuple(files)).tensors()
    if flags != [tied, tied] or torn(files, tied):
        raise ModelError(f"{plan.llm.spelled}: assembled, tie_word_embeddings of the outer and the text config do not say what {WEIGHTS} holds.")
    if plan.tower[1]:  # the tower's source is a published checkpoint of the same class
        other = patterns(names) ^ patterns(plan.vision.tensors())
        if other:
            raise ModelError(f"{plan.vision.spelled}: assembled, names of tensors differ from its own (first: {sorted(other)[0]}).")


def patterns(names: list[str]) -> set[str]:
    """Names of tensors but for the numbers of blocks and the head, which is there where it is not tied."""
    return {re.sub(r"\.\d+\.", ".N.", name) for name in names if not name.endswith(HEAD)}
