"""The contract file: what an adapter was trained with, and must be used with.

`contract.json` lies beside the adapter. Evaluation, export and resume describe themselves in the same terms and
refuse to differ unless told to.
"""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lab import data, lora
from lab.artifacts import adapter
from lab.config import EvaluationSection, Experiment, PromptDial, as_dict, flat
from lab.errors import ContractError
from lab.host.files import file_hash, values_hash, write_atomically
from lab.model import Vlm
from lab.model.answers import AnyReadout, Readout
from lab.model.encoding import Encoder
from lab.prompt import describe as describe_prompt
from lab.records import AnswerSpace, Choice

VERSION = 3
EARLIER = {
    1: "that version hashed 64 numbers of each of the base's tensors and the tokenizer's words alone, so it cannot say whether base "
    "and tokenizer are still what the adapter was trained with"
}
"""Why what an earlier version recorded of base and tokenizer says too little. 2: every byte of the weights, `config.json`, and all
of the tokenizer that makes ids of text. 3: answers by kind; 2 knew True/False alone, and is read as 3."""
IDENTITIES = ("base.weights", "base.config", "tokenizer.hash")
LIBRARIES = ("torch", "torchvision", "transformers", "peft", "tokenizers", "pillow")
REMARKS = ("libraries", "visual_tokens", "trained", "clips", "base.path", "base.assembled", "answers.post", "answers.max_new_tokens", "mixture")
"""Recorded, and told when both sides know them and differ, but no reason to refuse: a checkpoint may move, its weights
may not; written answers may be read otherwise, or be longer. `visual_tokens` and `clips` are realised, and known only after scoring.
`mixture`: its parts, of a run that learns from one."""
WHERE_BOTH = ("video",)
"""A reason to refuse where both sides know them: of data without clips nothing is recorded."""


def describe(x: Experiment, vlm: Vlm, encoder: Encoder, readout: AnyReadout) -> dict[str, Any]:
    """What this process would train or evaluate with, as plain values."""
    own = data.lead(x.data)
    clips = {"video": {"processor": encoder.clip_settings, "sampling": asdict(own.video)}} if data.named(own.name).clips else {}
    return {
        "version": VERSION,
        "base": vlm.base,
        "processor": encoder.settings(),
        "tokenizer": describe_tokenizer(encoder),
        "prompt": describe_prompt(encoder.prompt),
        "chat_template": vlm.processor.chat_template,
        "answers": describe_answers(readout, x.evaluation),
        "padding_side": encoder.tokenizer.padding_side,
        "vision_tokens": as_dict(x)["vision_tokens"],
        "conditioning": as_dict(x)["conditioning"],
        "lora": {key: value for key, value in as_dict(x)["lora"].items() if value or key != "full"},
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        **clips,
        **({} if x.model.start is None else {"start": Path(x.model.start).name}),
    }


def describe_answers(readout: AnyReadout, section: EvaluationSection) -> dict[str, Any]:
    """How answers are read, and how long they may be where they are written."""
    return readout.describe() | ({} if isinstance(readout, Readout) else {"max_new_tokens": section.most_tokens(readout.kind)})


def describe_tokenizer(encoder: Encoder) -> dict[str, Any]:
    """The class of the tokenizer, the size of its vocabulary and a hash over all that makes ids of text.

    Words with their ids, added and special tokens, merges, normalisation and splitting; how it pads and truncates is each call's.
    """
    words = sorted(encoder.tokenizer.get_vocab().items())
    added = {str(number): repr(token) for number, token in encoder.tokenizer.added_tokens_decoder.items()}
    rules: dict[str, Any] = {}
    if encoder.tokenizer.is_fast:
        whole = json.loads(encoder.tokenizer.backend_tokenizer.to_str())
        rules = {name: whole[name] for name in ("normalizer", "pre_tokenizer")}
        rules["merges"] = [pair if isinstance(pair, str) else " ".join(pair) for pair in whole["model"].get("merges", ())]
    digest = values_hash([words, added, rules])
    return {"class": type(encoder.tokenizer).__name__, "size": len(words), "hash": digest}


def describe_trained(vlm: Vlm, run_dir: Path) -> dict[str, Any]:
    """What lies in `adapter.TRAINED` of a run: the parts, how many tensors and numbers, and the file's hash; nothing where there is none."""
    if not vlm.full:
        return {}
    sizes = [own.master.numel() for own in vlm.full.values()]
    held = {"parts": lora.parts_of(vlm), "tensors": len(sizes), "parameters": sum(sizes)}
    return {"trained": {**held, "sha256": file_hash(run_dir / "adapter" / adapter.TRAINED)}}


def of_base(described: dict[str, Any]) -> dict[str, Any]:
    """What of `describe` the answers of the base depend on, wherever it lies: neither the adapter, nor the rule that reads answers."""
    base = {key: value for key, value in described["base"].items() if key not in ("path", "revision")}
    answers = {key: value for key, value in described["answers"].items() if key != "post"}
    return {key: value for key, value in described.items() if key not in ("lora", "libraries", "start")} | {"base": base, "answers": answers}


def save(run_dir: Path, contract: dict[str, Any]) -> None:
    """Write `contract.json`."""
    write_atomically(run_dir / "contract.json", json.dumps(contract, indent=1) + "\n")


def load(run_dir: Path) -> dict[str, Any]:
    """Read `contract.json`; a `ContractError` if it is missing or no JSON, or if whole parts beside it are others."""
    path = run_dir / "contract.json"
    try:
        contract = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(contract, dict) or "version" not in contract:
            raise ValueError("it is no contract of this laboratory")
        if contract["version"] == 2:
            contract |= {"version": VERSION, "answers": {"kind": Choice.kind, "options": list(contract["answers"].values())}}
    except (OSError, ValueError, RecursionError, KeyError, AttributeError) as error:
        raise ContractError(
            f"{path}: the adapter's contract cannot be read ({error}); without it nothing says how to use it."
        ) from None
    held = run_dir / "adapter" / adapter.TRAINED
    if "trained" in contract and held.is_file() and file_hash(held) != contract["trained"]["sha256"]:
        raise ContractError(f"{held}: it is not what was trained, by {path}. Restore it, or train the run again with trainer.if_finished=again.")
    return contract


def answers_of(trained: dict[str, Any], dial: PromptDial) -> AnswerSpace:
    """What an adapter answers with; its options are in their own words, or True and False."""
    answers = trained["answers"]
    words = tuple(spellings[0] for spellings in answers.get("options", ()))
    aliases = tuple(sorted(answers.get("aliases", {}).items()))
    return AnswerSpace(answers["kind"], Choice.truth(True).options if words == tuple(dial.words.values()) else words, aliases)


def compare(trained: dict[str, Any], now: dict[str, Any]) -> tuple[list[str], list[str]]:
    """What differs, as lines `key: trained with A, now B`: reasons to refuse, and remarks."""
    before, after = (flat(json.loads(json.dumps(side))) for side in (trained, now))
    reasons, remarks = [], []
    keys = before.keys() | after.keys()
    if before.get("version") in EARLIER and before.get("version") != after.get("version"):
        keys -= {"version", *IDENTITIES}
        reasons.append(f"version: trained with {before['version']}, now {after.get('version')}: {EARLIER[before['version']]}")
    for key in sorted(keys):
        if before.get(key) != after.get(key):
            line = f"{key}: trained with {short(before.get(key), after.get(key))}, now {short(after.get(key), before.get(key))}"
            remark = any(key == name or key.startswith(f"{name}.") for name in REMARKS)
            unknown = any(key.startswith(f"{name}.") for name in WHERE_BOTH) and not (key in before and key in after)
            if not remark and not unknown:
                reasons.append(line)
            elif remark and key in before and key in after:
                remarks.append(line)
    return reasons, remarks


def differences(trained: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Reasons to refuse, as `key: trained with A, now B`."""
    return compare(trained, now)[0]


def enforce(trained: dict[str, Any], now: dict[str, Any], what: str) -> None:
    """Raise a `ContractError` that lists every reason to refuse an evaluation, a verification or an export."""
    remedy = "or say --break-contract to measure the difference; the result is then marked."
    refuse(differences(trained, now), f"{what} would not use the adapter as it was trained", remedy)


def refuse(reasons: list[str], what: str, remedy: str) -> None:
    """Raise a `ContractError` if there is any reason to."""
    if reasons:
        raise ContractError(f"{what}:\n  " + "\n  ".join(reasons) + f"\nGive it the trained settings, {remedy}")


def short(value: Any, other: Any) -> str:
    """A value in at most some 80 characters; of a long text, the stretch in which it begins to differ from the other."""
    text = json.dumps(value)
    if len(text) <= 80:
        return text
    against = json.dumps(other)
    same = next((i for i, (a, b) in enumerate(zip(text, against, strict=False)) if a != b), min(len(text), len(against)))
    start = max(0, same - 20)
    return f"{'...' if start else ''}{text[start : start + 60]}{'...' if start + 60 < len(text) else ''} ({len(text)} characters)"
