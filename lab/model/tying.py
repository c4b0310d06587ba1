"""Output heads that share their weights with the embedding of tokens, and how they come to weights of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

HEAD, EMBEDDING = "lm_head.weight", "embed_tokens.weight"
"""How the names of the two end in the files of decoders of Llama's kind."""


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


def torn(files: Sequence[Path], tied: bool) -> str | None:
    """Why files of weights are not what `tie_word_embeddings` says of them: a head that is not there, or one of its own; else None."""
    import torch
    from safetensors import safe_open

    places: dict[str, tuple[Path, str]] = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
        places |= {end: (path, name) for name in names for end in (HEAD, EMBEDDING) if f".{name}".endswith(f".{end}")}
    if EMBEDDING not in places:
        return None
    if HEAD not in places:
        return None if tied else (
            "its config.json says tie_word_embeddings=false, and its files hold no lm_head, which would begin with random numbers. Set it to "
            "true, or take files that hold the head."
        )  # fmt: skip
    if not tied:
        return None
    tensors = []
    for path, name in places.values():
        with safe_open(path, framework="pt") as file:
            tensors.append(file.get_tensor(name))
    return None if torch.equal(*tensors) else (
        "its config.json says tie_word_embeddings=true, and its files hold an lm_head that is not the embedding, which one of the two would "
        "replace. Set it to false, in text_config too."
    )  # fmt: skip
