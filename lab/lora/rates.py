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


def seeing(vlm: Vlm) -> dict[str, torch.nn.Parameter]:
    """Those that a batch without pictures may leave out: of any part but the language model, and of added modules."""
    return {name: one for name, one in trainable(vlm).items() if part_of(vlm, name) != "llm"}


def part_of(vlm: Vlm, name: str) -> str:
    """The part of a trainable parameter; `added` for modules that dials have added."""
    if name.split(".")[0] in vlm.extras:
        return "added"
    of = vlm.family.part_of if ".lora_" in name else vlm.family.owner
    return of(name.removeprefix("base_model.model."))


def learning_rate(vlm: Vlm, name: str, optim: Optim) -> float:
    """The peak rate of a trainable parameter: that of its part (of a whole head `optim.lr_extras`), times `optim.lr_b_ratio` for an adapter's B."""
    of_parts = {"vision": optim.lr_vision, "projector": optim.lr_projector, "llm": optim.lr_llm, "head": optim.lr_extras, "added": optim.lr_extras}
    own = of_parts.get(part_of(vlm, name))
    rate = optim.lr if own is None else own
    return rate * optim.lr_b_ratio if ".lora_B." in name else rate


def parameter_groups(vlm: Vlm, optim: Optim) -> list[dict[str, Any]]:
    """What trains, as groups of one learning rate each for a torch optimizer, the plain rate first."""
    rates: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in trainable(vlm).items():
        rates.setdefault(learning_rate(vlm, name, optim), []).append(parameter)
    return [{"params": rates[rate], "lr": rate} for rate in sorted(rates, key=lambda rate: (rate != optim.lr, rate))]
