"""Small random checkpoints to put together: towers with their image processors, language models with their tokenizers."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import checkpoints
from inline_checkpoints import llama_tokenizer

from lab.config import ModelDial

VIT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "initializer_range": 0.2}
TEXT = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""A template that takes texts alone, as language models have them."""


def tower(kind: str, folder: Path, **values: Any) -> Path:
    """A CLIP (with its text half), SigLIP or DINOv2 tower of 4 x 4 patches, its image processor beside it."""
    import torch
    import transformers as hf

    size: dict[str, Any] = {"image_size": 32, "patch_size": 8}
    mean = {"image_mean": [0.3, 0.4, 0.5], "image_std": [0.2, 0.3, 0.4]}
    square = {"height": 32, "width": 32}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        match kind:
            case "clip":
                words = {"vocab_size": 100, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, **VIT}
                model: Any = hf.CLIPModel(hf.CLIPConfig(vision_config={**size, **VIT, **values}, text_config=words))
                images: Any = hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=square, **mean)
            case "siglip":
                model = hf.SiglipVisionModel(hf.SiglipVisionConfig(**size, **{**VIT, **values}))
                images = hf.SiglipImageProcessor(size=square, **mean)
            case _:
                shape: dict[str, Any] = {key: value for key, value in VIT.items() if key != "intermediate_size"} | {"mlp_ratio": 2, **size, **values}
                config = hf.Dinov2WithRegistersConfig(num_register_tokens=2, **shape) if "registers" in kind else hf.Dinov2Config(**shape)
                model = (hf.Dinov2WithRegistersModel if "registers" in kind else hf.Dinov2Model)(config)
                images = hf.BitImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 28, "width": 28}, do_center_crop=True, **mean)
    model.save_pretrained(folder)
    images.save_pretrained(folder)
    return folder


@functools.cache
def words(kind: str) -> Any:
    """The tokenizer of a Qwen, the tiny base's, or of a Llama."""
    return checkpoints.make_processor().tokenizer if kind.startswith("qwen") else llama_tokenizer()


def language(kind: str, folder: Path, tokenizer: Any = None, template: str | None = CHATML, **values: Any) -> Path:
    """A language model by its `model_type`, two blocks, with a tokenizer and, where it is Qwen's, a template."""
    import copy

    import torch
    import transformers as hf

    own = copy.deepcopy(tokenizer or words(kind))
    own.chat_template = template if kind.startswith("qwen") else None
    ids = {f"{name}_token_id": getattr(own, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    rope = {"rope_type": "default", "rope_theta": 1e6}
    shape = {**TEXT, "vocab_size": len(own), "initializer_range": 0.1, "max_position_embeddings": 1024, "head_dim": 16, "rope_parameters": rope}
    shape |= ids | values
    if kind == "gemma3_text":
        del shape["rope_parameters"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        hf.AutoModelForCausalLM.from_config(hf.AutoConfig.for_model(kind, **shape)).save_pretrained(folder)
    own.save_pretrained(folder)
    return folder


def dial(family: str, vision: Path, llm: Path, **values: Any) -> ModelDial:
    """`model=assembled` of two folders, in float32."""
    return ModelDial(name="assembled", family=family, vision_from=str(vision), llm_from=str(llm), **values)
