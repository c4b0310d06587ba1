"""Weights of an arm's own in place of the base's: of parts that train whole (`lora.full`), and those that `model.start` brings.

They are kept in float32 and computed with in the base's dtype (mixed precision, Micikevicius et al. 2018, 1710.03740), so that what is
exported in that dtype computes the same to the bit. The base's own stay in memory, untouched, and are put back when the arm is done.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab.config import LoraDial
from lab.errors import ConfigError, ModelError
from lab.model import Vlm
from lab.model.family import Family

if TYPE_CHECKING:
    import torch

Places = dict[str, list[tuple[Any, str]]]
"""Of each parameter of a model, by its first full name, the modules that hold it and what they call it."""


@dataclass(frozen=True)
class OwnWeight:
    """One weight of an arm's own.

    master: float32. base: what it stands in place of. places: modules that hold it, with its name there. trains: it is of `lora.full`.
    """

    master: torch.nn.Parameter
    base: torch.nn.Parameter
    places: tuple[tuple[torch.nn.Module, str], ...]
    trains: bool

    def put_on(self) -> None:
        """Let the model compute with it."""
        from torch.nn.utils import parametrize

        from lab.lora.in_dtype import InDtype

        dtype = self.base.dtype
        shown = self.master if self.trains else type(self.master)(self.master.detach().to(dtype), requires_grad=False)
        for module, leaf in self.places:
            setattr(module, leaf, shown)
            if shown.dtype != dtype:
                parametrize.register_parametrization(module, leaf, InDtype(dtype), unsafe=True)

    def take_off(self) -> None:
        """Give the model the base's own back."""
        from torch.nn.utils import parametrize

        for module, leaf in self.places:
            if parametrize.is_parametrized(module, leaf):
                parametrize.remove_parametrizations(module, leaf, leave_parametrized=False)
            setattr(module, leaf, self.base)


def check(dial: LoraDial, quantisation: str, family: Family) -> None:
    """Check `lora.full` against a base of a family, quantised so. Raises `ConfigError`."""
    for part in dial.full:
        if part not in family.trainable_parts:
            raise ConfigError(f"lora.full=[{part}]: model.family={family.name} has no such part. Legal here: {', '.join(family.trainable_parts)}.")
    if "llm" in dial.full and quantisation != "none":
        raise ConfigError(
            f"lora.full={spelled(dial)}, model.quantisation={quantisation}: weights of few bits cannot train. Give model.quantisation=none, or "
            "leave llm out and train it by adapters."
        )


def spelled(dial: LoraDial) -> str:
    """`lora.full` as it is typed."""
    return f"[{','.join(dial.full)}]"


def places_of(vlm: Vlm) -> Places:
    """Where each parameter of a model is held; several modules hold one that is tied."""
    names = {id(parameter): name for name, parameter in vlm.base_model.named_parameters()}
    places: Places = {name: [] for name in names.values()}
    for module in vlm.base_model.modules():
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                places[names[id(parameter)]].append((module, leaf))
    return places


def full_names(vlm: Vlm, dial: LoraDial) -> list[str]:
    """Full names of the parameters that train whole, a tied one once. Raises `ModelError` for one that is tied to a part that does not."""
    if not dial.full:
        return []
    trains = {name: vlm.family.trains_whole(name, dial.full) for name, _ in vlm.base_model.named_parameters(remove_duplicate=False)}
    by_id: dict[int, list[str]] = {}
    for name, parameter in vlm.base_model.named_parameters(remove_duplicate=False):
        by_id.setdefault(id(parameter), []).append(name)
    for names in by_id.values():
        if len({trains[name] for name in names}) > 1:
            inside, outside = (next(name for name in names if trains[name] is inside) for inside in (True, False))
            raise ModelError(
                f"lora.full={spelled(dial)}: {inside} is one with {outside}, which is of another part, and would change with it. Train both parts, "
                "or give model.untied_head=true where it is the output head."
            )
    for part in dial.full:
        if not any(vlm.family.trains_whole(name, [part]) for name in trains):
            raise ModelError(f"lora.full={spelled(dial)}: this model has no weights in its {part}, so nothing of it would train. Leave it out.")
    return [names[0] for names in by_id.values() if trains[names[0]]]


def full_parameters(vlm: Vlm, dial: LoraDial) -> int:
    """How many numbers train in whole parts."""
    named = dict(vlm.base_model.named_parameters())
    return sum(named[name].numel() for name in full_names(vlm, dial))


def install(vlm: Vlm, dial: LoraDial, values: Mapping[str, torch.Tensor] | None = None) -> None:
    """Put float32 weights of the arm's own on the model: of each part that trains whole, and those given, which begin as given.

    values: by full name in `Vlm.base_model`; those outside `lora.full` do not train. Raises `ModelError` for a value that has no place.
    """
    import torch

    values = {} if values is None else values
    named, training = dict(vlm.base_model.named_parameters()), full_names(vlm, dial)
    require_places(values, named)
    places = places_of(vlm) if training or values else {}
    for name in dict.fromkeys([*training, *values]):
        base, trains = named[name], name in training
        first = {name: base, **values}[name].detach().to(base.device, torch.float32, copy=True)
        master = torch.nn.Parameter(first, requires_grad=trains)
        vlm.full[name] = OwnWeight(master, base, tuple(places[name]), trains)
    put_on(vlm)


def require_places(values: Mapping[str, torch.Tensor], named: Mapping[str, torch.Tensor]) -> None:
    """Raise a `ModelError` for a weight that the model does not have, or has of another shape."""
    odd = [name for name, value in values.items() if name not in named or named[name].shape != value.shape]
    if odd:
        raise ModelError(f"{len(odd)} of {len(values)} weights have no place in this model (first: {odd[0]}). Its base is another.")


def put_on(vlm: Vlm) -> None:
    """Let the model compute with the arm's own weights."""
    for own in vlm.full.values():
        own.put_on()


def take_off(vlm: Vlm) -> None:
    """Let the model compute with the base's weights."""
    for own in vlm.full.values():
        own.take_off()


def keep(vlm: Vlm) -> None:
    """Make the arm's own weights the model's, in the base's dtype."""
    for own in vlm.full.values():
        own.take_off()
        kept = type(own.base)(own.master.detach().to(own.base.dtype), requires_grad=False)
        for module, leaf in own.places:
            setattr(module, leaf, kept)
    vlm.full = {}


def parts_of(vlm: Vlm) -> list[str]:
    """The parts in which weights are the arm's own."""
    return list(dict.fromkeys(map(vlm.family.owner, vlm.full)))


@contextlib.contextmanager
def as_untrained(vlm: Vlm) -> Iterator[None]:
    """Within, the model computes without adapters and with the base's weights; modules that dials have added stay."""
    take_off(vlm)
    try:
        with vlm.model.disable_adapter() if hasattr(vlm.model, "disable_adapter") else contextlib.nullcontext():
            yield
    finally:
        put_on(vlm)


def resting(vlm: Vlm) -> Sequence[torch.nn.Module]:
    """The modules of parts of which nothing trains: dropout is to be off in them."""
    parts = {vlm.family.part_of(name.removeprefix("base_model.model.")) for name, one in vlm.model.named_parameters() if one.requires_grad}
    return [module for name, module in vlm.base_model.named_modules() if (part := vlm.family.part_of(name)) != "other" and part not in parts]
