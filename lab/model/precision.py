"""In which number format a base holds its weights: quantised linear layers, normalisation in float32."""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lab.config import ModelDial, Quantisation
from lab.errors import ConfigError
from lab.model.family import Family

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig


def check(dial: ModelDial, family: Family) -> None:
    """Raise a `ModelError` where bitsandbytes is asked for layers that it does not know, a `ConfigError` where it is missing. Light."""
    if dial.quantisation is Quantisation.none:
        return
    key = f"model.quantisation={dial.quantisation.value}"
    family.require("quantisation", key)
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"{key}: bitsandbytes is not installed. Install it with `pip install 'vlm-lab[quantised]'`, or give "
            "model.quantisation=none."
        )


def quantised(dial: ModelDial, family: Family, config: PretrainedConfig) -> dict[str, Any]:
    """What `from_pretrained` must be told, so that bitsandbytes quantises the language model's blocks; often nothing.

    The tower, the projector and the head keep `model.dtype`: they are small, and what they compute is cached or scored.
    Raises `ConfigError` where bitsandbytes has no kernels for this machine.
    """
    if dial.quantisation is Quantisation.none:
        return {}
    key = f"model.quantisation={dial.quantisation.value}"
    import torch
    from transformers import BitsAndBytesConfig
    from transformers.integrations.bitsandbytes import validate_bnb_backend_availability

    try:
        validate_bnb_backend_availability(raise_exception=True)
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            f"{key}: bitsandbytes has no kernels for this machine ({error}). Give model.quantisation=none."
        ) from None
    kept = outside_the_blocks(family, config)
    if dial.quantisation is Quantisation.int8:
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)}
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=dial.double_quantisation,
        bnb_4bit_compute_dtype=getattr(torch, dial.dtype.value),
        llm_int8_skip_modules=kept,
    )
    return {"quantization_config": settings}


def bytes_a_weight(dial: ModelDial) -> float | None:
    """Bytes of one weight of a quantised layer, its share of the scales included; None where nothing is quantised.

    nf4 keeps half a byte, and a scale for 64 weights: in float32, or (double quantisation) in 8 bits with a float32 scale for 256 of
    these (Dettmers et al. 2023, 2305.14314, section 3).
    """
    match dial.quantisation:
        case Quantisation.nf4:
            return 0.5 + (1.0 + 4.0 / 256 if dial.double_quantisation else 4.0) / 64
        case Quantisation.int8:
            return 1.0
        case Quantisation.none:
            return None


def outside_the_blocks(family: Family, config: PretrainedConfig) -> list[str]:
    """Full names of the linear layers that are not inside a block of the language model."""
    import torch

    with torch.device("meta"):
        model = family.auto_class().from_config(config)
    block = family.parts["llm"].block
    linears = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    return [name for name in linears if not re.match(block + r"\.", name)]


def is_norm(module: torch.nn.Module) -> bool:
    """Whether a module is a normalisation layer with a weight: its class is called `...Norm`."""
    return type(module).__name__.endswith("Norm") and getattr(module, "weight", None) is not None


def norms_in_float32(model: torch.nn.Module) -> None:
    """Let every normalisation layer compute, and keep its weights, in float32; what it returns has its old dtype again.

    Nothing changes where weights are float32 already.
    """
    import torch

    for module in model.modules():
        if not is_norm(module) or module.weight.dtype == torch.float32:
            continue
        module.register_forward_pre_hook(upcast)
        module.register_forward_hook(Downcast(module.get_parameter("weight").dtype))
        module.float()


@contextlib.contextmanager
def norms_as_stored(model: torch.nn.Module, dtype: str) -> Iterator[None]:
    """Within it, normalisation layers hold weights in the base's dtype, from which they came, as plain Transformers holds them."""
    import torch

    norms = [module for module in model.modules() if is_norm(module) and module.weight.dtype == torch.float32]
    for module in norms:
        module.to(getattr(torch, dtype))
    try:
        yield
    finally:
        for module in norms:
            module.float()


def upcast(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Inputs in float32."""
    return tuple(x.float() for x in inputs)


class Downcast:
    """A forward hook that returns the output in one dtype. A class, so that models can be copied."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return output.to(self.dtype)
