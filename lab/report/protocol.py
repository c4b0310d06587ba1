"""How each score came about, in one line: prompt, pixels, chat template, reading rule, split. A score without it cannot be made again."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.host.files import text_hash
from lab.report.checks import fact, named
from lab.report.document import Block, Bullets, Paragraph, Strong
from lab.report.formatting import count
from lab.report.kinds import page_of
from lab.report.measure import Measured

log = logging.getLogger(__name__)
DIGITS = 8
"""Of each hash."""


def protocol(m: Measured, data: str | None = None) -> str:
    """One line of one arm; data: another data set that it was asked, None: its own. What was not recorded is said to be so."""
    contract = recorded(m.arm.folder)
    prompt, size = contract.get("prompt", {}), contract.get("processor", {}).get("size", {})
    name = prompt.get("name") or m.arm.run.config.get("prompt", {}).get("name", "not recorded")
    least, most = (size.get(f"{edge}_edge") if isinstance(size, dict) else None for edge in ("shortest", "longest"))
    template = contract.get("chat_template")
    samples = fact(m.arm, "data", "samples", "dev") if data is None else fact(m.arm, "also", data, "samples")
    of = data or m.arm.run.config.get("data", {}).get("name", "its data")
    parts = (
        f"prompt {name}" + (f" (hash {prompt['hash'][:DIGITS]})" if "hash" in prompt else ""),
        f"pixels an image {count(least)} to {count(most)}" if isinstance(least, int) and isinstance(most, int) else pixels(size),
        f"chat template {text_hash(template, digits=DIGITS)}" if isinstance(template, str) else "chat template not recorded",
        f"answers {page_of(m.kind_name).reading(m.arm.run.config)}",
        f"split dev of {of}, {count(m.num_examples)} examples (samples {str(samples or 'not recorded')[:DIGITS]})",
    )
    return "; ".join(parts)


def pixels(size: Any) -> str:
    """The size of an image that a processor of another kind makes: edges by name, height and width, or one number."""
    if isinstance(size, dict):
        made = " ".join(f"{key} {value}" for key, value in size.items())
    else:
        made = " x ".join(map(str, size if isinstance(size, list) else [size]))
    return f"pixels an image: {made}" if made else "pixels not recorded"


def recorded(run_dir: Path) -> dict[str, Any]:
    """The contract of a run; empty where it has none. What cannot be read is told and counts as none."""
    path = run_dir / "contract.json"
    try:
        contract = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        log.warning("%s: it cannot be read (%s); the report says that the protocol was not recorded.", path, error)
        return {}
    sections = ("prompt", "processor")
    return contract if isinstance(contract, dict) and all(isinstance(contract.get(key, {}), dict) for key in sections) else {}


def protocol_blocks(measured: Sequence[Measured], data: str | None = None) -> list[Block]:
    """One line for all arms, or one for each protocol with its arms."""
    by_line: dict[str, list[Measured]] = {}
    for m in measured:
        by_line.setdefault(protocol(m, data), []).append(m)
    if len(by_line) == 1:
        return [Paragraph((Strong("Protocol of every score."), f" {line}.")) for line in by_line]
    return [Bullets(tuple((Strong(f"Protocol of {named(those)}."), f" {line}.") for line, those in by_line.items()))] if by_line else []
