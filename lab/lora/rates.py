"""What trains, and at which learning rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lab.config import Optim
from lab.model import Vlm

if TYPE_CHECKING:
    import torch


def parameters(vlm: Vlm) -> dict[str, torch.nn.Parameter]:
    """Every parameter by name: the model's, and those of modules that other dials added (`Vlm.extras`)."""
    named = dict(vlm.model.named_parameters())
    for extra, module in vlm.extras.items():
        named |= {f"{extra}.{name}": parameter for name, parameter in module.named_parameters()}
    return named


def trainable(vlm: Vlm) -> dict[str, torch.nn.Parameter]:
    """Those of them that train: adapters and added modules."""
    return {name: parameter for name, parameter in parameters(vlm).items() if parameter.requires_grad}


def learning_rate(vlm: Vlm, name: str, optim: Optim) -> float:
    """The peak rate of a trainable parameter: that of its part (of a whole head `optim.lr_extras`), times `optim.lr_b_ratio` for an adapter's B."""
    if name.split(".")[0] in vlm.extras:
        own = optim.lr_extras
    else:
        part_of = vlm.family.part_of if ".lora_" in name else vlm.family.owner
        of_parts = {"vision": optim.lr_vision, "projector": optim.lr_projector, "llm": optim.lr_llm, "head": optim.lr_extras}
        own = of_parts.get(part_of(name.removeprefix("base_model.model.")))
    rate = optim.lr if own is None else own
    return rate * optim.lr_b_ratio if ".lora_B." in name else rate


def parameter_groups(vlm: Vlm, optim: Optim) -> list[dict[str, Any]]:
    """What trains, as groups of one learning rate each for a torch optimizer, the plain rate first."""
    rates: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in trainable(vlm).items():
        rates.setdefault(learning_rate(vlm, name, optim), []).append(parameter)
    return [{"params": rates[rate], "lr": rate} for rate in sorted(rates, key=lambda rate: (rate != optim.lr, rate))]
