"""In which number format a base holds its weights: quantised linear layers, normalisation in float32."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.config import DType, ModelDial, Quantisation
from lab.errors import ConfigError, ModelError
from lab.model.family import Family
from lab.model.identity import weight_files

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

SCALES = r"\.(weight\.quant_state\.bitsandbytes__\w+|SCB)$"
"""What bitsandbytes saves beside the weight of a layer that it holds in 4 or 8 bits."""


def exact(dial: ModelDial) -> bool:
    """Whether a base computes in float32, so that batches of other sizes give the same answers."""
    return dial.dtype is DType.float32 and dial.quantisation is Quantisation.none


def read_in_one_piece(head: torch.nn.Module) -> None:
    """Let a head read the last positions of several rows as one matrix.

    They are a part of a larger tensor, for which PyTorch makes a product for each row with a copy of the whole vocabulary: 0.5 GB a row of
    Qwen2-VL's, and nine tenths of a step on a CPU. Not over float32, where a product of one position is another than one of several, to
    rounding, and batches of all sizes give the same answers.
    """
    head.register_forward_pre_hook(lambda _, given: tuple(each.contiguous() for each in given))


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


def quantised(dial: ModelDial, family: Family, config: PretrainedConfig, where: str) -> dict[str, Any]:
    """What `from_pretrained` must be told, so that bitsandbytes quantises the language model's blocks; often nothing.

    The tower, the projector and the head keep `model.dtype`: they are small, and what they compute is cached or scored. A checkpoint
    that holds quantised layers already keeps those that it holds. where: its folder or hub id.
    Raises `ConfigError` where bitsandbytes has no kernels for this machine, or a checkpoint holds its weights otherwise than asked.
    """
    held = stored(dial, config)
    if held is Quantisation.none and dial.quantisation is Quantisation.none:
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
    if held is not Quantisation.none:
        config.quantization_config |= {
            "llm_int8_skip_modules": plain_linears(family, config, weight_files(where, dial.revision)),
            "bnb_4bit_compute_dtype": dial.dtype.value,
        }
        return {"config": config}
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


def stored(dial: ModelDial, config: PretrainedConfig) -> Quantisation:
    """How a checkpoint's files hold its quantised layers. Raises `ConfigError` where that is not what `model.quantisation` says."""
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return Quantisation.none
    four, eight = settings.get("load_in_4bit"), settings.get("load_in_8bit")
    method = settings.get("bnb_4bit_quant_type", "fp4") if four else "int8" if eight else settings.get("quant_method")
    if method not in ("nf4", "int8"):
        raise ConfigError(f"model.path={dial.path}: its weights are quantised as {method}, and this laboratory reads int8 and nf4. "
                          "Give the checkpoint that it was made from.")  # fmt: skip
    twice = bool(settings.get("bnb_4bit_use_double_quant", False))
    wanted = {"model.quantisation": method} | ({"model.double_quantisation": str(twice).lower()} if four else {})
    if dial.quantisation.value != method or (four and dial.double_quantisation is not twice):
        asked = f"model.quantisation={dial.quantisation.value}, model.double_quantisation={str(dial.double_quantisation).lower()}"
        raise ConfigError(f"{asked}: the checkpoint {dial.path} is quantised already. Give {' '.join(f'{k}={v}' for k, v in wanted.items())}.")
    return Quantisation(method)


def plain_linears(family: Family, config: PretrainedConfig, files: Sequence[Path]) -> list[str]:
    """Full names of the linear layers that a quantised checkpoint holds as they were.

    By what lies in its files: the list in its config may have names of another version of Transformers, which match nothing, and layers
    would be taken for quantised whose weights are not.
    """
    from safetensors import safe_open
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    model = without_weights(family, config)
    changes = get_model_conversion_mapping(model)
    renamings = [one for one in changes if isinstance(one, WeightRenaming)]
    converters = [one for one in changes if isinstance(one, WeightConverter)]
    known, packed = model.state_dict(), set()
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 (a safetensors file is no dict)
                layer = re.sub(SCALES, "", key)
                if layer != key:
                    weight, _ = rename_source_key(f"{layer}.weight", renamings, converters, model.base_model_prefix, known)
                    packed.add(weight.removesuffix(".weight"))
    return [name for name in linears(model) if name not in packed]


def require_scales(dial: ModelDial, model: torch.nn.Module) -> None:
    """Raise a `ModelError` for layers of bitsandbytes whose weights are not quantised: they would fail, or multiply bytes as numbers."""
    whole = [
        name for name, layer in model.named_modules()
        if type(layer).__module__.startswith("bitsandbytes") and layer.weight.dtype.is_floating_point
        or type(layer).__name__ == "Linear4bit" and getattr(layer.weight, "quant_state", None) is None
    ]  # fmt: skip
    if whole:
        raise ModelError(
            f"model.path={dial.path}: {len(whole)} layers are quantised by its config.json and not in its files (first: {whole[0]}). "
            "Give the checkpoint that it was made from."
        )


def one_layout(model: torch.nn.Module) -> None:
    """Have 4-bit layers answer from the weights that training reads.

    On a CPU with bfloat16 instructions bitsandbytes lays them out anew at the first answer, with scales rounded to bfloat16, and fails where
    a weight's row is no multiple of its 64 numbers a scale.
    """
    for layer in model.modules():
        if type(layer).__name__ == "Linear4bit":
            layer.support_avx512bf16_for_cpu = False  # type: ignore[assignment]  # torch's modules name tensors and modules alone


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
    block = family.parts["llm"].block
    return [name for name in linears(without_weights(family, config)) if not re.match(block + r"\.", name)]


def without_weights(family: Family, config: PretrainedConfig) -> PreTrainedModel:
    """The model of a config on torch's meta device."""
    import torch

    with torch.device("meta"):
        return family.model_class(config)._from_config(copy.deepcopy(config))


def linears(model: torch.nn.Module) -> list[str]:
    """Full names of a model's linear layers."""
    import torch

    return [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]


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
