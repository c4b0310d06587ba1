"""Output heads that share their weights with the embedding of tokens, and how they come to weights of their own."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def shared(model: torch.nn.Module) -> set[int]:
    """Ids of the parameters that several modules hold."""
    owners = Counter(id(each) for module in model.modules() for each in module._parameters.values() if each is not None)
    return {parameter for parameter, number in owners.items() if number > 1}


def untie(model: Any, layer: torch.nn.Module, names: tuple[str, ...] = ("weight",)) -> None:
    """Give parameters of a layer that others hold too a copy of their own, and say so in the model's configs, so that they are saved."""
    import torch

    common = shared(model)
    for name, tensor in list(layer.named_parameters(recurse=False)):
        if name in names and id(tensor) in common:
            setattr(layer, name, torch.nn.Parameter(tensor.detach().clone(), requires_grad=False))
            for config in (model.config, *(getattr(model.config, part) for part in model.config.sub_configs)):
                if getattr(config, "tie_word_embeddings", False):
                    config.tie_word_embeddings = False
