"""How an adapter begins: the initialisations of PEFT that can be had here, and what each of them does."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lab.config import LoraDial
from lab.errors import ConfigError


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


def init_of(dial: LoraDial) -> Init:
    """The initialisation that the dial names. Raises `ConfigError` for one that is unknown or cannot be had here."""
    name = dial.init_lora_weights
    if re.fullmatch(r"pissa_niter_[1-9]\d*", name):
        return Init(name, starts_at_zero=False, changes_base=True, takes_quantised=False)
    if name not in INITS:
        why = f" {name}: {REFUSED[name]}." if name in REFUSED else ""
        raise ConfigError(f"lora.init_lora_weights={name}: legal are {', '.join(INITS)} and pissa_niter_N.{why}")
    return INITS[name]
