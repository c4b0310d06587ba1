"""Adapters merged into the weights they sit beside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lab.lora.attaching import ADAPTER
from lab.model import Vlm
from lab.model.tying import untie

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel


def merge(model: PeftModel) -> PreTrainedModel:
    """The model with its adapters merged, which changes it.

    Quantised weights are brought to the base's dtype first: added to in 8 or 4 bits, they would be rounded anew. Where an adapted
    output embedding is tied to an embedding of tokens, it is untied first: what is added to the one must not change the other.
    """
    from peft.tuners.lora import LoraLayer

    if getattr(model.get_base_model(), "is_quantized", False):
        model = dequantised(model)
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            untie(model.get_base_model(), layer.get_base_layer(), ("weight", "bias"))
    return model.merge_and_unload()


def merged_weights(vlm: Vlm) -> dict[str, torch.Tensor]:
    """Weights of the layers under a loaded adapter with it merged in, float32, by full name; the model is left as it was."""
    import torch
    from peft.tuners.lora import LoraLayer

    merged: dict[str, torch.Tensor] = {}
    layer: Any
    for name, layer in vlm.base_model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        base: Any = layer.get_base_layer()
        weight = base.weight
        own = vlm.full.get(f"{name}.weight")
        base.weight = torch.nn.Parameter((weight if own is None else own.master).detach().to(torch.float32, copy=True), requires_grad=False)
        layer.merge()
        merged[f"{name}.weight"] = base.weight.detach()
        base.weight = weight
        layer.merged_adapters.clear()
    return merged


def dequantised(model: PeftModel) -> PeftModel:
    """The same adapters on the base without its quantisation, which is gone from the model given."""
    from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

    config = model.peft_config[ADAPTER]
    matrices = {name: tensor.clone() for name, tensor in get_peft_model_state_dict(model, save_embedding_layers=False).items()}
    plain = PeftModel(model.unload().dequantize(), config)
    set_peft_model_state_dict(plain, matrices)
    return plain.eval()

