"""The ledger of what trains: parameters of every part, all of them and those that learn."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lab.config import PARTS
from lab.model import Vlm

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LedgerRow:
    """Parameters of one part: all of them and those that train (adapters counted in the part they sit in)."""

    part: str
    total: int
    trainable: int
    modules: tuple[str, ...]

    @property
    def share(self) -> float:
        """Trainable over total."""
        return self.trainable / max(self.total, 1)


def ledger(vlm: Vlm) -> list[LedgerRow]:
    """Count parameters per part (vision, projector, llm, other, and each of `Vlm.extras`), tied tensors once."""
    rows: dict[str, list[Any]] = {part: [0, 0, []] for part in (*PARTS, "other", *vlm.extras)}
    named = [(None, name, parameter) for name, parameter in vlm.model.named_parameters()]
    for extra, module in vlm.extras.items():
        named += [(extra, f"{extra}.{name}", parameter) for name, parameter in module.named_parameters()]
    for extra, name, parameter in named:
        bare = name.removeprefix("base_model.model.")
        row = rows[extra or vlm.family.part_of(bare)]
        count = num_elements(parameter)
        row[0] += count
        if parameter.requires_grad:
            row[1] += count
            row[2].append(re.sub(r"\.(lora_\w+|base_layer|parametrizations|weight|bias)(\..*)?$", "", bare))
    return [LedgerRow(part, total, train, tuple(dict.fromkeys(names))) for part, (total, train, names) in rows.items() if total]


def num_elements(parameter: torch.nn.Parameter) -> int:
    """Numbers in a parameter; bitsandbytes keeps two 4-bit numbers in a byte, under their shape in `quant_state`."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()


def ledger_text(rows: list[LedgerRow]) -> str:
    """The ledger as a plain table."""
    total, train = sum(row.total for row in rows), sum(row.trainable for row in rows)
    lines = [f"{'part':<10} {'parameters':>14} {'trainable':>12} {'share':>8}  layers that train"]
    for row in [*rows, LedgerRow("all", total, train, ())]:
        share = f"{100 * row.share:.3f} %"
        lines.append(f"{row.part:<10} {row.total:>14,} {row.trainable:>12,} {share:>8}  {len(row.modules) or ''}".rstrip())
    return "\n".join(lines)


def ledger_facts(rows: list[LedgerRow]) -> list[dict[str, Any]]:
    """The ledger as plain values for `run.json`."""
    return [{**asdict(row), "share": row.share} for row in rows]
