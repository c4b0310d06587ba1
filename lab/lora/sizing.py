"""From a wanted number of trainable parameters to a rank, so that arms of different make can be matched."""

from __future__ import annotations

from dataclasses import replace

from lab.config import LoraDial
from lab.errors import ConfigError
from lab.lora.full import full_parameters
from lab.lora.initialisations import init_of
from lab.lora.targets import features, target_names
from lab.model import Vlm


def sized(vlm: Vlm, dial: LoraDial) -> LoraDial:
    """The dial with the rank that it asks for: `lora.r`, or the largest that keeps to `lora.trainable_parameters`.

    Modules that other dials have added to the model (`Vlm.extras`) train too and are counted first, so that the adapter fills
    what they leave. Raises `ConfigError` with the smallest number that can be had if not even the smallest rank fits.
    """
    wanted = dial.trainable_parameters
    if wanted is None or dial.r == 0:
        return dial
    added = added_parameters(vlm, dial)
    step = 2 if init_of(dial).value == "orthogonal" else 1  # this initialisation needs an even rank
    least = adapter_parameters(vlm, replace(dial, r=step))
    fixed = adapter_parameters(vlm, replace(dial, r=0))
    rank = (wanted - added - fixed) // (least - fixed) * step
    if rank < 1:
        beside = f", {added:,} of them in what trains beside adapters" if added else ""
        raise ConfigError(
            f"lora.trainable_parameters={wanted}: the smallest adapter here makes {added + least:,} trainable parameters "
            f"(lora.r={step}{beside}). Give at least {added + least}, or narrow lora.where, lora.target_modules or what is added."
        )
    return replace(dial, r=rank)


def added_parameters(vlm: Vlm, dial: LoraDial) -> int:
    """What trains beside adapters: parameters of the modules that other dials have added, and of parts that train whole."""
    return sum(parameter.numel() for module in vlm.extras.values() for parameter in module.parameters()) + full_parameters(vlm, dial)


def adapter_parameters(vlm: Vlm, dial: LoraDial) -> int:
    """Trainable parameters of the adapter that the dial asks for, before it is attached.

    r (in + out) for each layer; MiCA's B is frozen and leaves r in; DoRA adds a length for each row of the weight.
    """
    trains_b = init_of(dial).value != "mica"
    total = 0
    for name in target_names(vlm, dial):
        inside, outside = features(vlm.base_model.get_submodule(name))
        total += dial.r * (inside + outside * trains_b) + outside * dial.use_dora
    return total
