"""Which layers get adapters: parts and presets, or the user's own pattern, to full module names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from lab.config import PARTS, LoraDial
from lab.errors import ConfigError
from lab.model import Vlm
from lab.model.family import Family

if TYPE_CHECKING:
    import torch

PRESETS = ("attention", "mlp", "all-linear")


def check_targets(dial: LoraDial) -> None:
    """Check what can be known of the targets without a model. Raises `ConfigError`."""
    if dial.target_modules not in PRESETS:
        own_pattern(dial)
    elif not dial.where:
        raise ConfigError(f"lora.where=[]: name at least one part for target_modules={dial.target_modules}: {', '.join(PARTS)}.")


def reached(family: Family, dial: LoraDial) -> set[str]:
    """The parts of a family whose blocks get adapters: those of `where`, or those in which a pattern meets a layer's name."""
    if dial.target_modules in PRESETS:
        return set(dial.where)
    return {name for name, part in family.parts.items() if any(re.fullmatch(dial.target_modules, one) for one in part.names())}


def target_pattern(vlm: Vlm, dial: LoraDial) -> str:
    """The regular expression over full module names (`re.fullmatch`) that gets adapters."""
    check_targets(dial)
    if dial.target_modules not in PRESETS:
        return but_whole(vlm.family, dial, dial.target_modules)
    patterns = []
    for name in (part for part in PARTS if part in dial.where):
        part = vlm.family.parts[name]
        blocks = r"\d+" if dial.top_k_blocks is None else last_blocks(vlm, name, dial.top_k_blocks)
        patterns.append(part.targets(dial.target_modules, blocks))
    return but_whole(vlm.family, dial, "|".join(pattern for pattern in patterns if pattern))


def but_whole(family: Family, dial: LoraDial, pattern: str) -> str:
    """A pattern without the layers of parts that train whole."""
    whole = "|".join(rf"({family.pattern(name)})" for name in dial.full)
    return rf"(?!{whole})({pattern})" if whole and pattern else pattern


def own_pattern(dial: LoraDial) -> None:
    """Check the user's own regular expression."""
    try:
        re.compile(dial.target_modules)
    except re.error as error:
        raise ConfigError(
            f"lora.target_modules={dial.target_modules!r}: this is neither a preset ({', '.join(PRESETS)}) nor a "
            f"regular expression ({error})."
        ) from None
    if dial.top_k_blocks is not None:
        raise ConfigError(
            f"lora.top_k_blocks={dial.top_k_blocks}: it narrows a preset ({', '.join(PRESETS)}); a regular expression "
            "names its blocks itself. Set it to null."
        )


def last_blocks(vlm: Vlm, name: str, k: int) -> str:
    """A regular expression for the numbers of a part's last k blocks. Raises `ConfigError` if it has fewer."""
    part = vlm.family.parts[name]
    depth = part.num_blocks(module for module, _ in vlm.base_model.named_modules())
    if part.block and k > depth:
        raise ConfigError(f"lora.top_k_blocks={k}: the {name} part of this model has {depth} blocks. Give at most that, or null.")
    return "|".join(str(block) for block in range(depth - k, depth))


def target_names(vlm: Vlm, dial: LoraDial) -> list[str]:
    """Full names of the linear layers that get adapters; a `ConfigError` if there are none or one is no linear layer."""
    pattern = target_pattern(vlm, dial)
    modules = dict(vlm.base_model.named_modules())
    names = [name for name in modules if re.fullmatch(pattern, name)] if pattern else []
    if not names:
        some = [name for name, module in modules.items() if is_linear(module)]
        raise ConfigError(
            f"lora.target_modules={dial.target_modules!r}, lora.where={list(dial.where)}: no module of this model matches, so "
            f"nothing would train. A pattern must match full names, such as {some[0]} or {some[-2]}."
        )
    wrong = [name for name in names if not is_linear(modules[name])]
    if wrong:
        raise ConfigError(
            f"lora.target_modules={dial.target_modules!r}: {wrong[0]} is a {type(modules[wrong[0]]).__name__}, and LoRA here "
            "goes on linear layers. Narrow the pattern."
        )
    return names


def features(layer: Any) -> tuple[int, int]:
    """How many numbers a linear layer takes and gives; GPT-2's Conv1D keeps its weight as [in, out]."""
    if hasattr(layer, "in_features"):
        return layer.in_features, layer.out_features
    inside, outside = layer.weight.shape
    return inside, outside


def is_linear(layer: torch.nn.Module) -> bool:
    """Whether LoRA here can go on a layer."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return isinstance(layer, nn.Linear | Conv1D)
