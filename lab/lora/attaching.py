"""Adapters on a model and off again, through PEFT's own layers, for every initialisation that PEFT offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lab.config import LoraDial
from lab.errors import ConfigError, ModelError
from lab.lora import full
from lab.lora.initialisations import INITS, init_of
from lab.lora.sizing import sized
from lab.lora.targets import check_targets, features, reached, target_names, target_pattern
from lab.model import Vlm
from lab.model.family import Family

if TYPE_CHECKING:
    import torch

ADAPTER = "default"
"""PEFT's name for a model's first adapter."""


def check(dial: LoraDial, quantisation: str, family: Family) -> None:
    """Check the dial against a base of a family, quantised so, before anything is loaded. Raises `ConfigError`."""
    init = init_of(dial)
    full.check(dial, quantisation, family)
    if not dial.r:
        return
    check_targets(dial)
    key = f"lora.init_lora_weights={dial.init_lora_weights}"
    if init.value == "orthogonal" and dial.r % 2 and dial.trainable_parameters is None:
        raise ConfigError(f"{key}, lora.r={dial.r}: this initialisation needs an even rank.")
    if not init.takes_quantised and quantisation != "none":
        legal = ", ".join(name for name, other in INITS.items() if other.takes_quantised)
        raise ConfigError(
            f"{key}: it reads or changes the base's weights, which model.quantisation={quantisation} holds in few bits. "
            f"Legal here: {legal}."
        )
    if init.value == "mica" and dial.use_dora:
        raise ConfigError(f"{key}, lora.use_dora=true: there is no MiCA with DoRA. Choose one of them.")
    if init.value == "olora" and "llm" in reached(family, dial):
        family.require("olora")


def verify(vlm: Vlm, dial: LoraDial) -> LoraDial:
    """The dial with its rank (`sized`). Raises a `ConfigError` for what `attach` could not do to this model.

    Cheap, and meant to be called before any training. `vlm` has the modules that other dials add already.
    """
    check(dial, vlm.base.get("quantisation", "none"), vlm.family)
    full.full_names(vlm, dial)
    init = init_of(dial)
    if not dial.r:
        return dial
    names = target_names(vlm, dial)
    if dial.use_dora:
        check_norms(vlm, names)
    dial = sized(vlm, dial)
    key = f"lora.init_lora_weights={dial.init_lora_weights}"
    narrow = min(min(features(vlm.base_model.get_submodule(name))) for name in names)
    if isinstance(init.value, str) and init.value not in ("gaussian", "orthogonal") and dial.r > narrow:
        raise ConfigError(
            f"{key}, lora.r={dial.r}: it takes its matrices from the base's weights, and one of them has rank {narrow} at most."
        )
    return dial


def check_norms(vlm: Vlm, names: Sequence[str]) -> None:
    """Refuse DoRA over weights with a row of zeros, whose direction is 0 / 0: the first loss would be no number."""
    for name in names:
        layer = vlm.base_model.get_submodule(name)
        if layer.weight.is_meta or not layer.weight.is_floating_point():
            continue  # no numbers are there, or few bits that stand for them by their scales
        rows = int((~layer.weight.detach().any(dim=0 if transposed(layer) else 1)).sum())
        if rows:
            raise ConfigError(
                f"lora.use_dora=true: {rows} of the rows of {name} are all zero, and DoRA divides by the norm of each. "
                "Give lora.target_modules without it, or lora.use_dora=false."
            )


def transposed(layer: torch.nn.Module) -> bool:
    """Whether a layer keeps its weight as [in, out]. PEFT finds out by itself, layer by layer, and warns where it must."""
    return not hasattr(layer, "in_features")


def attach(vlm: Vlm, dial: LoraDial, seed: int = 0, start: Mapping[str, torch.Tensor] | None = None) -> None:
    """Put weights of the arm's own (`lab.lora.full`) and fresh adapters, drawn from `seed` alone, on the model.

    start: weights to begin with in place of the base's.
    """
    dial = verify(vlm, dial)
    full.install(vlm, dial, start)
    if dial.r == 0:
        return
    import torch
    from peft import LoraConfig, get_peft_model

    init = init_of(dial)
    config = LoraConfig(
        r=dial.r,
        lora_alpha=2 * dial.r if dial.lora_alpha is None else dial.lora_alpha,
        lora_dropout=dial.lora_dropout,
        target_modules=target_pattern(vlm, dial),
        use_dora=dial.use_dora,
        use_rslora=dial.use_rslora,
        init_lora_weights=init.value,
        bias="none",
        fan_in_fan_out=all(transposed(vlm.base_model.get_submodule(name)) for name in target_names(vlm, dial)),
    )
    names = [] if init.starts_at_zero else target_names(vlm, dial)
    before = {name: vlm.base_model.get_submodule(name).weight.detach().clone() if init.changes_base else None for name in names}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vlm.model = get_peft_model(vlm.model, config)
    for own in vlm.full.values():
        own.master.requires_grad_(own.trains)  # PEFT freezes all that is not its own
    for name, weight in before.items():
        layer = vlm.base_model.get_submodule(name)
        first = [layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight]
        vlm.initial[name] = (weight, *(matrix.detach().clone() for matrix in first))


def finalize_adapter(vlm: Vlm, fresh: bool = False) -> None:
    """Write an adapter that was trained on a changed base as one of rank 2r on the checkpoint's own weights.

    W_res + s B A = W + s [B, -B0] [A; A0], where W_res = W - s B0 A0 and A0, B0 are the matrices at the start. The saved
    adapter then needs no initialisation to be repeated when it is loaded, here or by plain PEFT, and the base is whole
    again for the next arm. Does nothing after an initialisation that leaves the base alone.

    Raises `ModelError` if no matrix has left its start, which an adapter that does not start at zero hides otherwise; fresh:
    none has yet.
    """
    if not vlm.initial:
        return
    import torch

    layers = {name: vlm.base_model.get_submodule(name) for name in vlm.initial}
    if not fresh and all(
        torch.equal(layers[name].lora_A[ADAPTER].weight, a_start) and torch.equal(layers[name].lora_B[ADAPTER].weight, b_start)
        for name, (_, a_start, b_start) in vlm.initial.items()
    ):
        raise ModelError("lora: the adapter is where it started. Was optim.lr zero, or does its target never run?")
    initial = {name: start for name, start in vlm.initial.items() if start[0] is not None}
    if initial:
        subtract(vlm, initial)
    vlm.initial = {}


def subtract(vlm: Vlm, starts: dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> None:
    """Make every adapter the difference from its start, of twice the rank, on the weight before it (see `finalize_adapter`)."""
    import torch

    config = vlm.model.peft_config[ADAPTER]
    config.lora_alpha = config.lora_alpha * (2**0.5 if config.use_rslora else 2)
    config.r, config.init_lora_weights = 2 * config.r, True
    scaling = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    for name, (weight, a_start, b_start) in starts.items():
        layer = vlm.base_model.get_submodule(name)
        layer.get_base_layer().weight.data = weight
        a, b = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
        for linear, joined in (
            (a, torch.cat([a.weight.data, a_start.to(a.weight)], dim=0)),
            (b, torch.cat([b.weight.data, -b_start.to(b.weight)], dim=1)),
        ):
            linear.weight = torch.nn.Parameter(joined.contiguous(), requires_grad=linear.weight.requires_grad)
            linear.out_features, linear.in_features = joined.shape
        layer.r[ADAPTER], layer.lora_alpha[ADAPTER], layer.scaling[ADAPTER] = config.r, config.lora_alpha, scaling


def detach(vlm: Vlm) -> None:
    """Take adapters and the arm's own weights off, and give the base the weights it had before them."""
    for name, (weight, _, _) in vlm.initial.items():
        if weight is not None:
            vlm.base_model.get_submodule(name).get_base_layer().weight.data = weight
    vlm.initial = {}
    if hasattr(vlm.model, "unload"):
        vlm.model = vlm.model.unload()
    full.take_off(vlm)
    vlm.full = {}


class AdapterLayers:
    """The layers of a loaded arm on a base that it shares with others: off it, and on again, with no number copied and no file read.

    One thread at a time may use the base.
    """

    def __init__(self, vlm: Vlm) -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer

        self.vlm, self.base_model, self.configs = vlm, vlm.base_model, getattr(vlm.base_model, "peft_config", None)
        self.layers = {name: module for name, module in self.base_model.named_modules() if isinstance(module, BaseTunerLayer)}

    def take_off(self) -> None:
        """Leave the base as it is without them."""
        for name, layer in self.layers.items():
            self.base_model.set_submodule(name, layer.get_base_layer())
        if self.configs is not None:
            del self.base_model.peft_config
        full.take_off(self.vlm)

    def put_on(self) -> None:
        """Undo `take_off`."""
        full.put_on(self.vlm)
        for name, layer in self.layers.items():
            self.base_model.set_submodule(name, layer)
        if self.configs is not None:
            self.base_model.peft_config = self.configs
