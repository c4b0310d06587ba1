"""What may change: LoRA adapters by part, through PEFT's own layers, and the ledger of what trains.

Identity: `lora=none` attaches nothing; a fresh adapter with `init_lora_weights=default` has B = 0, so its logits are
bit-identical to the checkpoint's.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lab.config import PARTS, LoraDial
from lab.errors import ConfigError
from lab.model import Vlm

if TYPE_CHECKING:
    import torch

PRESETS = ("attention", "mlp", "all-linear")
INITS: dict[str, bool | str] = {
    "default": True,
    "gaussian": "gaussian",
    "pissa": "pissa",
    "olora": "olora",
    "orthogonal": "orthogonal",
}


@dataclass(frozen=True)
class LedgerRow:
    """Parameters of one part: all of them and those that train (adapters counted in the part they sit in)."""

    part: str
    total: int
    trainable: int
    modules: tuple[str, ...]


def target_pattern(vlm: Vlm, dial: LoraDial) -> str:
    """The regular expression over full module names (`re.fullmatch`) that gets adapters."""
    if dial.target_modules not in PRESETS:
        try:
            re.compile(dial.target_modules)
        except re.error as error:
            raise ConfigError(
                f"lora.target_modules={dial.target_modules!r}: this is neither a preset ({', '.join(PRESETS)}) nor a "
                f"regular expression ({error})."
            ) from None
        return dial.target_modules
    if not dial.where:
        raise ConfigError(f"lora.where=[]: name at least one part for target_modules={dial.target_modules}: {', '.join(PARTS)}.")
    patterns = [vlm.family.parts[part].targets(dial.target_modules) for part in PARTS if part in dial.where]
    return "|".join(pattern for pattern in patterns if pattern)


def target_names(vlm: Vlm, dial: LoraDial) -> list[str]:
    """Full names of the linear layers that get adapters; a `ConfigError` if there are none or one is no linear layer."""
    from torch import nn

    pattern = target_pattern(vlm, dial)
    modules = dict(vlm.bare.named_modules())
    names = [name for name in modules if re.fullmatch(pattern, name)] if pattern else []
    if not names:
        some = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
        raise ConfigError(
            f"lora.target_modules={dial.target_modules!r}, lora.where={list(dial.where)}: no module of this model matches, so "
            f"nothing would train. A pattern must match full names, such as {some[0]} or {some[-2]}."
        )
    wrong = [name for name in names if not isinstance(modules[name], nn.Linear)]
    if wrong:
        raise ConfigError(
            f"lora.target_modules={dial.target_modules!r}: {wrong[0]} is a {type(modules[wrong[0]]).__name__}, and LoRA here "
            "goes on linear layers. Narrow the pattern."
        )
    return names


def verify(vlm: Vlm, dial: LoraDial) -> None:
    """Raise a `ConfigError` for what `attach` could not do to this model; cheap, and before any training."""
    if dial.init_lora_weights not in INITS:
        raise ConfigError(f"lora.init_lora_weights={dial.init_lora_weights}: legal are {', '.join(INITS)}.")
    if dial.r:
        target_names(vlm, dial)


def attach(vlm: Vlm, dial: LoraDial, seed: int = 0) -> None:
    """Put fresh adapters on the model, drawn from `seed` alone; with r = 0 do nothing at all."""
    verify(vlm, dial)
    if dial.r == 0:
        return
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=dial.r,
        lora_alpha=2 * dial.r if dial.lora_alpha is None else dial.lora_alpha,
        lora_dropout=dial.lora_dropout,
        target_modules=target_pattern(vlm, dial),
        use_dora=dial.use_dora,
        use_rslora=dial.use_rslora,
        init_lora_weights=INITS[dial.init_lora_weights],
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vlm.model = get_peft_model(vlm.model, config)


def trainable(vlm: Vlm) -> dict[str, torch.nn.Parameter]:
    """The parameters that train, by name: adapters, and modules that other dials added (`Vlm.extras`)."""
    found = dict(vlm.model.named_parameters())
    for extra, module in vlm.extras.items():
        found |= {f"{extra}.{name}": parameter for name, parameter in module.named_parameters()}
    return {name: parameter for name, parameter in found.items() if parameter.requires_grad}


def ledger(vlm: Vlm) -> list[LedgerRow]:
    """Count parameters per part (vision, projector, llm, other, and each of `Vlm.extras`), tied tensors once."""
    rows: dict[str, list[Any]] = {part: [0, 0, []] for part in (*PARTS, "other", *vlm.extras)}
    named = [(None, name, parameter) for name, parameter in vlm.model.named_parameters()]
    for extra, module in vlm.extras.items():
        named += [(extra, f"{extra}.{name}", parameter) for name, parameter in module.named_parameters()]
    for extra, name, parameter in named:
        bare = name.removeprefix("base_model.model.")
        row = rows[extra or vlm.family.part_of(bare)]
        row[0] += parameter.numel()
        if parameter.requires_grad:
            row[1] += parameter.numel()
            row[2].append(re.sub(r"\.(lora_\w+|base_layer)(\..*)?$", "", bare))
    return [LedgerRow(part, total, train, tuple(dict.fromkeys(names))) for part, (total, train, names) in rows.items() if total]


def ledger_text(rows: list[LedgerRow]) -> str:
    """The ledger as a plain table."""
    total, train = sum(row.total for row in rows), sum(row.trainable for row in rows)
    lines = [f"{'part':<10} {'parameters':>14} {'trainable':>12} {'share':>8}  layers with adapters"]
    for row in [*rows, LedgerRow("all", total, train, ())]:
        share = f"{100 * row.trainable / max(row.total, 1):.3f} %"
        lines.append(f"{row.part:<10} {row.total:>14,} {row.trainable:>12,} {share:>8}  {len(row.modules) or ''}".rstrip())
    return "\n".join(lines)


def ledger_facts(rows: list[LedgerRow]) -> list[dict[str, Any]]:
    """The ledger as plain values for `run.json`."""
    return [asdict(row) for row in rows]
