"""How an adapter begins: the initialisations of PEFT that can be had here, and what each of them does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lab import bounds
from lab.config import LoraDial

KEY = "lora.init_lora_weights"


@dataclass(frozen=True)
class Init:
    """One of PEFT's initialisations.

    value: what PEFT calls it, true or a word (its annotation has no `pissa_niter_4`). starts_at_zero: the fresh adapter computes
    exactly nothing. changes_base: the frozen weight gives up what the adapter starts with (see `finalize_adapter`).
    takes_quantised: it works beside a quantised weight.
    """

    value: Any
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


def init_of(dial: LoraDial) -> Init:
    """The initialisation that the dial names. Raises `ConfigError` for one that is unknown or cannot be had here."""
    name = dial.init_lora_weights
    bounds.check_word(KEY, name, bounds.WORDS[KEY])
    return INITS[name] if name in INITS else Init(name, starts_at_zero=False, changes_base=True, takes_quantised=False)
