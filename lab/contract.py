"""The contract file: what an adapter was trained with, and must be used with.

`contract.json` lies beside the adapter. Evaluation, export and resume describe themselves in the same terms and
refuse to differ unless told to.
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

from lab.config import Experiment, as_dict, flat
from lab.errors import ContractError
from lab.model import Vlm
from lab.model.answers import AnswerTokens
from lab.model.encoding import Encoder
from lab.prompt import describe as describe_prompt
from lab.runs import write_atomically

VERSION = 1
LIBRARIES = ("torch", "torchvision", "transformers", "peft", "tokenizers", "pillow")
NOT_ENFORCED = ("libraries", "visual_tokens", "lora")
"""Recorded, and shown when they differ, but no reason to refuse."""


def describe(x: Experiment, vlm: Vlm, encoder: Encoder, tokens: AnswerTokens) -> dict[str, Any]:
    """What this process would train or evaluate with, as plain values."""
    return {
        "version": VERSION,
        "base": vlm.base,
        "processor": encoder.settings(),
        "prompt": describe_prompt(x.prompt),
        "chat_template": vlm.processor.chat_template,
        "answers": {"true": list(tokens.true_spellings), "false": list(tokens.false_spellings)},
        "padding_side": encoder.tokenizer.padding_side,
        "vision_tokens": as_dict(x)["vision_tokens"],
        "conditioning": as_dict(x)["conditioning"],
        "lora": as_dict(x)["lora"],
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def save(run_dir: Path, contract: dict[str, Any]) -> None:
    """Write `contract.json`."""
    write_atomically(run_dir / "contract.json", json.dumps(contract, indent=1) + "\n")


def load(run_dir: Path) -> dict[str, Any]:
    """Read `contract.json`; a `ContractError` if it is missing or no JSON."""
    path = run_dir / "contract.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ContractError(f"{path}: the adapter's contract cannot be read ({error}); without it nothing says how to use it.") from None


def differences(trained: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Enforced keys whose values differ, as `key: trained with A, now B`."""
    before, after = (flat(json.loads(json.dumps(side))) for side in (trained, now))
    lines = []
    for key in sorted(before.keys() | after.keys()):
        if key.split(".")[0] not in NOT_ENFORCED and before.get(key) != after.get(key):
            lines.append(f"{key}: trained with {short(before.get(key))}, now {short(after.get(key))}")
    return lines


def enforce(trained: dict[str, Any], now: dict[str, Any], what: str) -> None:
    """Raise a `ContractError` that lists every enforced difference."""
    found = differences(trained, now)
    if found:
        raise ContractError(
            f"{what} would not use the adapter as it was trained:\n  " + "\n  ".join(found) + "\n"
            "Give it the trained settings, or say --break-contract to measure the difference; the result is then marked."
        )


def short(value: Any) -> str:
    """A value in at most 80 characters."""
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"
