"""What may change: LoRA adapters by part, through PEFT's own layers, and the ledger of what trains.

Identity: `lora=none` attaches nothing; a fresh adapter whose initialisation `starts_at_zero` computes exactly nothing,
so its logits are bit-identical to the checkpoint's.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lab.config import PARTS, LoraDial, Optim
from lab.errors import ConfigError, ModelError
from lab.model import Vlm

if TYPE_CHECKING:
    import torch
    from peft.tuners.lora import LoraLayer

PRESETS = ("attention", "mlp", "all-linear")
ADAPTER = "default"
"""PEFT's name for a model's first adapter."""


@dataclass(frozen=True)
class Init:
    """One of PEFT's initialisations.

    value: what PEFT calls it. starts_at_zero: the fresh adapter computes exactly nothing. changes_base: the frozen weight
    gives up what the adapter starts with (see `settle`). takes_quantised: it works beside a quantised weight.
    """

    value: bool | str
    starts_at_zero: bool = True
    changes_base: bool = False
    takes_quantised: bool = True


INITS = {
    "default": Init(True),
    "gaussian": Init("gaussian"),
    "orthogonal": Init("orthogonal", starts_at_zero=False, takes_quantised=False),
    "mica": Init("mica", takes_quantised=False),
    "pissa": Init("pissa", starts_at_zero=False, changes_base=True, takes_quantised=False),
    "olora": Init("olora", starts_at_zero=False, changes_base=True, takes_quantised=False),
}
"""pissa: Meng et al. 2024, 2404.02948; also as `pissa_niter_N`. olora: Buyukakyuz 2024, 2406.01775."""
REFUSED = {
    "loftq": "PEFT computes it with bitsandbytes on a GPU from a base that is not quantised yet",
    "eva": "it needs activations of training data before the adapter exists",
    "corda": "it needs activations of training data before the adapter exists",
    "lora_ga": "it needs gradients of training data before the adapter exists",
}


@dataclass(frozen=True)
class LedgerRow:
    """Parameters of one part: all of them and those that train (adapters counted in the part they sit in)."""

    part: str
    total: int
    trainable: int
    modules: tuple[str, ...]

    @property
    def share(self) -> float:
        """Trainable over total."""
        return self.trainable / max(self.total, 1)


def init_of(dial: LoraDial) -> Init:
    """The initialisation that the dial names. Raises `ConfigError` for one that is unknown or cannot be had here."""
    name = dial.init_lora_weights
    if re.fullmatch(r"pissa_niter_[1-9]\d*", name):
        return Init(name, starts_at_zero=False, changes_base=True, takes_quantised=False)
    if name not in INITS:
        why = f" {name}: {REFUSED[name]}." if name in REFUSED else ""
        raise ConfigError(f"lora.init_lora_weights={name}: legal are {', '.join(INITS)} and pissa_niter_N.{why}")
    return INITS[name]


def target_pattern(vlm: Vlm, dial: LoraDial) -> str:
    """The regular expression over full module names (`re.fullmatch`) that gets adapters."""
    if dial.target_modules not in PRESETS:
        return own_pattern(dial)
    if not dial.where:
        raise ConfigError(f"lora.where=[]: name at least one part for target_modules={dial.target_modules}: {', '.join(PARTS)}.")
    patterns = []
    for name in (part for part in PARTS if part in dial.where):
        part = vlm.family.parts[name]
        blocks = r"\d+" if dial.top_k_blocks is None else last_blocks(vlm, name, dial.top_k_blocks)
        patterns.append(part.targets(dial.target_modules, blocks))
    return "|".join(pattern for pattern in patterns if pattern)


def own_pattern(dial: LoraDial) -> str:
    """The user's own regular expression, checked."""
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
    return dial.target_modules


def last_blocks(vlm: Vlm, name: str, k: int) -> str:
    """A regular expression for the numbers of a part's last k blocks. Raises `ConfigError` if it has fewer."""
    part = vlm.family.parts[name]
    depth = part.num_blocks(module for module, _ in vlm.bare.named_modules())
    if part.block and k > depth:
        raise ConfigError(f"lora.top_k_blocks={k}: the {name} part of this model has {depth} blocks. Give at most that, or null.")
    return "|".join(str(block) for block in range(depth - k, depth))


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
    init = init_of(dial)
    if not dial.r:
        return
    names = target_names(vlm, dial)
    key = f"lora.init_lora_weights={dial.init_lora_weights}"
    layers = [vlm.bare.get_submodule(name) for name in names]
    if init.value == "orthogonal" and dial.r % 2:
        raise ConfigError(f"{key}, lora.r={dial.r}: this initialisation needs an even rank.")
    if not init.takes_quantised and vlm.base.get("quantisation", "none") != "none":
        legal = ", ".join(name for name, other in INITS.items() if other.takes_quantised)
        raise ConfigError(f"{key}: it reads or changes the base's weights, which are quantised. Legal here: {legal}.")
    if init.value == "mica" and dial.use_dora:
        raise ConfigError(f"{key}, lora.use_dora=true: there is no MiCA with DoRA. Choose one of them.")
    narrow = min(min(layer.in_features, layer.out_features) for layer in layers)
    if isinstance(init.value, str) and init.value not in ("gaussian", "orthogonal") and dial.r > narrow:
        raise ConfigError(
            f"{key}, lora.r={dial.r}: it takes its matrices from the base's weights, and one of them has rank {narrow} at most."
        )


def attach(vlm: Vlm, dial: LoraDial, seed: int = 0) -> None:
    """Put fresh adapters on the model, drawn from `seed` alone; with r = 0 do nothing at all."""
    verify(vlm, dial)
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
    )
    names = [] if init.starts_at_zero else target_names(vlm, dial)
    before = {name: vlm.bare.get_submodule(name).weight.detach().clone() if init.changes_base else None for name in names}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vlm.model = get_peft_model(vlm.model, config)
    for name, weight in before.items():
        layer = vlm.bare.get_submodule(name)
        first = [layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight]
        vlm.starts[name] = (weight, *(matrix.detach().clone() for matrix in first))


def settle(vlm: Vlm) -> None:
    """Write an adapter that was trained on a changed base as one of rank 2r on the checkpoint's own weights.

    W_res + s B A = W + s [B, -B0] [A; A0], where W_res = W - s B0 A0 and A0, B0 are the matrices at the start. The saved
    adapter then needs no initialisation to be repeated when it is loaded, here or by plain PEFT, and the base is whole
    again for the next arm. Does nothing after an initialisation that leaves the base alone.

    Raises `ModelError` if no matrix has left its start, which an adapter that does not start at zero hides otherwise.
    """
    if not vlm.starts:
        return
    import torch

    layers = {name: vlm.bare.get_submodule(name) for name in vlm.starts}
    if all(
        torch.equal(layers[name].lora_A[ADAPTER].weight, a_start) and torch.equal(layers[name].lora_B[ADAPTER].weight, b_start)
        for name, (_, a_start, b_start) in vlm.starts.items()
    ):
        raise ModelError("lora: the adapter is where it started. Was optim.lr zero, or does its target never run?")
    starts = {name: start for name, start in vlm.starts.items() if start[0] is not None}
    if starts:
        subtract(vlm, starts)
    vlm.starts = {}


def subtract(vlm: Vlm, starts: dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> None:
    """Make every adapter the difference from its start, of twice the rank, on the weight before it (see `settle`)."""
    import torch

    config = vlm.model.peft_config[ADAPTER]
    config.lora_alpha = config.lora_alpha * (2**0.5 if config.use_rslora else 2)
    config.r, config.init_lora_weights = 2 * config.r, True
    scaling = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    for name, (weight, a_start, b_start) in starts.items():
        layer: LoraLayer = vlm.bare.get_submodule(name)
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
    """Take the adapters off, and give the base the weights it had before them."""
    for name, (weight, _, _) in vlm.starts.items():
        if weight is not None:
            vlm.bare.get_submodule(name).get_base_layer().weight.data = weight
    vlm.starts = {}
    if hasattr(vlm.model, "unload"):
        vlm.model = vlm.model.unload()


def trainable(vlm: Vlm) -> dict[str, torch.nn.Parameter]:
    """The parameters that train, by name: adapters, and modules that other dials added (`Vlm.extras`)."""
    found = dict(vlm.model.named_parameters())
    for extra, module in vlm.extras.items():
        found |= {f"{extra}.{name}": parameter for name, parameter in module.named_parameters()}
    return {name: parameter for name, parameter in found.items() if parameter.requires_grad}


def learning_rate(vlm: Vlm, name: str, optim: Optim) -> float:
    """The peak rate of a trainable parameter: that of its part, times `optim.lr_b_ratio` for an adapter's B."""
    if name.split(".")[0] in vlm.extras:
        own = optim.lr_extras
    else:
        part = vlm.family.part_of(name.removeprefix("base_model.model."))
        own = {"vision": optim.lr_vision, "projector": optim.lr_projector}.get(part)
    rate = optim.lr if own is None else own
    return rate * optim.lr_b_ratio if ".lora_B." in name else rate


def parameter_groups(vlm: Vlm, optim: Optim) -> list[dict[str, Any]]:
    """What trains, as groups of one learning rate each for a torch optimizer, the plain rate first."""
    rates: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in trainable(vlm).items():
        rates.setdefault(learning_rate(vlm, name, optim), []).append(parameter)
    return [{"params": rates[rate], "lr": rate} for rate in sorted(rates, key=lambda rate: (rate != optim.lr, rate))]


def ledger(vlm: Vlm) -> list[LedgerRow]:
    """Count parameters per part (vision, projector, llm, other, and each of `Vlm.extras`), tied tensors once."""
    rows: dict[str, list[Any]] = {part: [0, 0, []] for part in (*PARTS, "other", *vlm.extras)}
    named = [(None, name, parameter) for name, parameter in vlm.model.named_parameters()]
    for extra, module in vlm.extras.items():
        named += [(extra, f"{extra}.{name}", parameter) for name, parameter in module.named_parameters()]
    for extra, name, parameter in named:
        bare = name.removeprefix("base_model.model.")
        row = rows[extra or vlm.family.part_of(bare)]
        count = num_elements(parameter)
        row[0] += count
        if parameter.requires_grad:
            row[1] += count
            row[2].append(re.sub(r"\.(lora_\w+|base_layer)(\..*)?$", "", bare))
    return [LedgerRow(part, total, train, tuple(dict.fromkeys(names))) for part, (total, train, names) in rows.items() if total]


def num_elements(parameter: torch.nn.Parameter) -> int:
    """Numbers in a parameter; bitsandbytes keeps two 4-bit numbers in a byte, under their shape in `quant_state`."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()


def ledger_text(rows: list[LedgerRow]) -> str:
    """The ledger as a plain table."""
    total, train = sum(row.total for row in rows), sum(row.trainable for row in rows)
    lines = [f"{'part':<10} {'parameters':>14} {'trainable':>12} {'share':>8}  layers with adapters"]
    for row in [*rows, LedgerRow("all", total, train, ())]:
        share = f"{100 * row.share:.3f} %"
        lines.append(f"{row.part:<10} {row.total:>14,} {row.trainable:>12,} {share:>8}  {len(row.modules) or ''}".rstrip())
    return "\n".join(lines)


def ledger_facts(rows: list[LedgerRow]) -> list[dict[str, Any]]:
    """The ledger as plain values for `run.json`."""
    return [{**asdict(row), "share": row.share} for row in rows]
