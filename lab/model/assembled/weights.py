"""The tensors of an assembled model: the tower's, the language model's, and the projector's own, each accounted for by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.config import ModelDial, ProjectorInit
from lab.errors import ModelError
from lab.model.assembled import sources
from lab.model.assembled.draft import Draft
from lab.model.family import Family

if TYPE_CHECKING:
    import torch

LANGUAGE = "model.language_model."
SEED = 0
"""Of fresh tensors: two assemblies from the same sources are one."""


def write(draft: Draft, family: Family, dial: ModelDial, folder: Path) -> dict[str, list[str]]:
    """Save the assembled model with its processor as plain Transformers does; returns names of tensors that are fresh, or cut to fit.

    Raises `ModelError` for tensors of either source that have no place, or places that no tensor fills.
    """
    import torch
    import transformers

    tower = dict(sources.load(draft.vision, draft.tower_class).state_dict())
    language = dict(sources.load(draft.llm, "AutoModelForCausalLM").state_dict())
    dtype = torch.promote_types(first(tower).dtype, first(language).dtype)
    with torch.device("meta"):
        model = getattr(transformers, draft.model_class)._from_config(draft.config, dtype=dtype)
    told: dict[str, list[str]] = {"fresh": [], "cropped": []}
    generator = torch.Generator().manual_seed(SEED)
    state, taken = {}, set()
    for name, place in model.state_dict().items():
        source, key = (tower, of_tower(draft, name)) if name.startswith(draft.tower[0]) else (language, of_language(name))
        if family.part_of(name) == "projector":
            state[name], how = projected(name, place, tower.get(key), dial.projector_init, generator, draft.config)
            if how in told:
                told[how].append(name)
        elif key not in source or (source is tower and source[key].shape != place.shape):
            told_source = draft.vision if source is tower else draft.llm
            raise ModelError(f"{told_source.spelled}: it has no tensor for {name}. Give a checkpoint of the route's kind.")
        else:
            state[name] = grown(source[key], place.shape[0])
        taken.add((source is tower, key))
    require_all_taken(draft, tower, language, taken)
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in state.items()}, strict=True, assign=True)
    model.tie_weights()
    model.generation_config = draft.generation
    model.save_pretrained(folder)
    draft.processor.save_pretrained(folder)
    return told


def first(state: dict[str, Any]) -> torch.Tensor:
    """Any tensor that is a number with a point."""
    return next(tensor for tensor in state.values() if tensor.is_floating_point())


def of_tower(draft: Draft, name: str) -> str:
    """The name in the tower's own class of a tensor of the model."""
    return draft.tower[1] + name.removeprefix(draft.tower[0])


def of_language(name: str) -> str:
    """The same in the language model's."""
    return name.replace(LANGUAGE, "model.", 1)


def projected(
    name: str, place: torch.Tensor, own: torch.Tensor | None, how: ProjectorInit, generator: torch.Generator, config: Any
) -> tuple[torch.Tensor, str]:
    """A tensor of the projector, and whether it is `fresh`, `cropped` or the tower's `own`.

    Cut: the first rows of what the tower's last layer gives; nothing says that they are the right ones.
    """
    import torch

    if own is not None and how is ProjectorInit.crop:
        return own[: place.shape[0]].clone(), "own" if own.shape == place.shape else "cropped"
    if place.ndim > 1:
        return torch.empty(place.shape).normal_(std=config.get_text_config().initializer_range, generator=generator), "fresh"
    return torch.full(place.shape, float(name.endswith("norm.weight"))), "fresh"


def grown(tensor: torch.Tensor, rows: int) -> torch.Tensor:
    """With rows for new words, which begin as the mean of the others."""
    import torch

    if len(tensor) >= rows:
        return tensor
    return torch.cat([tensor, tensor.float().mean(0, keepdim=True).to(tensor.dtype).expand(rows - len(tensor), *tensor.shape[1:])])


def require_all_taken(draft: Draft, tower: dict[str, Any], language: dict[str, Any], taken: set[tuple[bool, str]]) -> None:
    """Raise a `ModelError` for tensors of a source that the model has no place for, but those that it is known to leave out."""
    prefix = draft.tower[1]
    over = [name for name in tower if name.startswith(prefix) and (True, name) not in taken and not re.fullmatch(draft.left_out, name)]
    for source, names in ((draft.vision, over), (draft.llm, [name for name in language if (False, name) not in taken])):
        if names:
            what = f"{len(names)} of its tensors have no place in the assembled model (first: {names[0]})"
            raise ModelError(f"{source.spelled}: {what}, which would compute something else. Give another checkpoint.")
