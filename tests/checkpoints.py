"""Checkpoints with random weights, one of each family: small, but of every architecture's real shape."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lab.config import DType, ModelDial
from tools.pretraining.tokenizer import make_processor

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

    from lab.config import Experiment
    from lab.model import Vlm
    from lab.model.encoded import Example
    from lab.model.encoder_decoder import Pair

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
FACTOR = {"qwen2_vl": 16, "qwen2_5_vl": 16, "qwen3_vl": 32}
"""Pixels along one side of a token."""
HIDDEN = 64
SHAPES = {"2b": (1536, 12, 2, 8960, 151936, True), "7b": (3584, 28, 4, 18944, 152064, False)}
"""hidden, heads, kv heads, intermediate, vocabulary, tied (their published config.json files)."""


def processor_of(family: str) -> ProcessorMixin:
    """The tiny base's tokenizer and template around the family's own processor classes."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    made = make_processor()
    if family == "qwen2_vl":
        return made
    if family == "qwen2_5_vl":
        return Qwen2_5_VLProcessor(
            image_processor=made.image_processor,
            tokenizer=made.tokenizer,
            video_processor=made.video_processor,
            chat_template=made.chat_template,
        )
    size = {"shortest_edge": 64 * 64, "longest_edge": 256 * 256}
    half = [0.5, 0.5, 0.5]
    steps = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2, "size": size, "image_mean": half, "image_std": half}
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**steps),
        tokenizer=made.tokenizer,
        video_processor=Qwen3VLVideoProcessor(**steps),
        chat_template=made.chat_template,
    )


def special_ids(tokenizer: Any) -> dict[str, int]:
    """The config's ids of image and vision tokens."""
    words = {"image_token_id": "image_pad", "video_token_id": "video_pad"}
    words |= {"vision_start_token_id": "vision_start", "vision_end_token_id": "vision_end"}
    return {key: tokenizer.convert_tokens_to_ids(f"<|{word}|>") for key, word in words.items()}


def text_config(tokenizer: Any, tied: bool = True) -> dict[str, Any]:
    """Three blocks with grouped queries. tied: the head is the embedding."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": 0.1,
        "rms_norm_eps": 1e-6,
        "bos_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
        "pad_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        "tie_word_embeddings": tied,
    }


def make(family: str, seed: int = 0, tied: bool = True) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A random model of the family and its processor."""
    import torch
    import transformers as hf

    processor = processor_of(family)
    tokenizer = processor.tokenizer
    text = text_config(tokenizer, tied)
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    vision: dict[str, Any] = {"depth": 3, "num_heads": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
    vision |= {"patch_size": FACTOR[family] // 2, "initializer_range": 0.1}
    shared = {**special_ids(tokenizer), "tie_word_embeddings": tied, "dtype": "float32"}
    match family:
        case "qwen2_vl":
            vision |= {"embed_dim": 32, "hidden_size": HIDDEN, "mlp_ratio": 2}
            names = (hf.Qwen2VLConfig, hf.Qwen2VLForConditionalGeneration)
        case "qwen2_5_vl":
            vision |= {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": HIDDEN}
            vision |= {"window_size": 32, "fullatt_block_indexes": [1]}
            names = (hf.Qwen2_5_VLConfig, hf.Qwen2_5_VLForConditionalGeneration)
        case _:
            vision |= {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": HIDDEN}
            vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
            text["head_dim"] = 16
            rope["mrope_interleaved"] = True
            names = (hf.Qwen3VLConfig, hf.Qwen3VLForConditionalGeneration)
    config = names[0](text_config={**text, "rope_parameters": rope}, vision_config=vision, **shared)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = names[1](config)
        with torch.no_grad():  # Transformers begins the padding token's as zeros, which no published checkpoint has
            model.get_input_embeddings().weight[tokenizer.pad_token_id].normal_(std=config.text_config.initializer_range)
    return model, processor


def make_vit_gpt2(seed: int = 0) -> tuple[PreTrainedModel, Pair]:
    """A random ViT + GPT-2 of unequal widths; the tiny base's words without a template or a padding token."""
    import torch
    import transformers as hf

    from lab.model.encoder_decoder import Pair

    words = make_processor().tokenizer
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=words.backend_tokenizer, eos_token="<|endoftext|>")
    images = hf.ViTImageProcessor(size={"height": 64, "width": 64})
    ends = {"bos_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id}
    shape = {"num_hidden_layers": 3, "num_attention_heads": 4, "initializer_range": 0.2}
    vision = hf.ViTConfig(hidden_size=32, intermediate_size=48, image_size=64, patch_size=16, **shape)
    ends |= {"vocab_size": len(tokenizer), "n_positions": 256}
    text = hf.GPT2Config(n_embd=HIDDEN, n_layer=3, n_head=4, initializer_range=0.1, **ends)
    text.is_decoder = text.add_cross_attention = True
    config = hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, text)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return hf.VisionEncoderDecoderModel(config), Pair(tokenizer, images)


def real_config(family: str, size: str, num_layers: int = 28, depth: int = 32) -> Any:
    """The configuration of Qwen2-VL-2B, Qwen2-VL-7B or Qwen2.5-VL-7B, from its published facts."""
    from transformers import Qwen2_5_VLConfig, Qwen2VLConfig

    hidden, heads, kv_heads, intermediate, vocabulary, tied = SHAPES[size]
    text = {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": num_layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        "tie_word_embeddings": tied,
    }
    vision: dict[str, Any] = {"depth": depth, "num_heads": 16, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
    if family == "qwen2_vl":
        vision |= {"embed_dim": 1280, "hidden_size": hidden, "mlp_ratio": 4}
        return Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied)
    vision |= {"hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": hidden}
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied)


def with_adapters(dial: ModelDial, chosen: Experiment, **lora_values: Any) -> Vlm:
    """A model with the dials of an experiment and adapters of rank 4 that have left their start, in evaluation mode."""
    from lab import conditioning, lora, model, vision_tokens

    vlm = model.load(dial)
    vision_tokens.install(vlm, chosen.vision_tokens, 0)
    conditioning.install(vlm, chosen.conditioning, 0)
    lora.attach(vlm, dataclasses.replace(chosen.lora, r=4, **lora_values), seed=0)
    return moved(vlm)


def moved(vlm: Vlm) -> Vlm:
    """The same with adapters and gates that have left their start, in evaluation mode."""
    import torch

    from lab import lora

    torch.manual_seed(1)
    for name, parameter in lora.trainable(vlm).items():
        if "lora_B" in name or name.endswith("gate"):
            parameter.data.normal_(0.0, 0.05)
    vlm.model.eval()
    return vlm


def with_answer(example: Example, length: int) -> Example:
    """The example with an answer of so many tokens."""
    return dataclasses.replace(example, text=dataclasses.replace(example.text, answer_ids=np.resize(example.text.answer_ids, length)))


def save(family: str, folder: Path, seed: int = 0, tied: bool = True) -> ModelDial:
    """Write a random checkpoint of the family; return the dial that loads it."""
    import beside_checkpoints
    import inline_checkpoints
    import reference_checkpoints

    makers = {"vit_gpt2": make_vit_gpt2, **beside_checkpoints.MAKERS, **inline_checkpoints.MAKERS, **reference_checkpoints.MAKERS}
    model, processor = makers[family](seed) if family in makers else make(family, seed, tied)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return ModelDial(name=family, family=family, path=str(folder), dtype=DType.float32)
