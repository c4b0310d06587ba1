"""The tiny base's shape: a Qwen2-VL of about 1.4 M parameters, with random word embeddings that stay fixed.

The embeddings (tied with the output layer) are drawn once and never trained. Nearly orthogonal words serve a
model of this size as well as trained ones, and words it never met are then as usable as those it did: had
they been trained, the softmax would have pushed all unmet words onto one another.
"""

from __future__ import annotations

import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from tools.pretraining.recipe import STREAM
from tools.pretraining.tokenizer import MERGE, PATCH

HIDDEN = 128
EMBEDDING_STD = 0.1


def make_config(processor: Qwen2VLProcessor, blocks: int = 5, depth: int = 3) -> Qwen2VLConfig:
    """Describe the model around a tokenizer. blocks: of the language model; depth: of the vision tower."""
    tokenizer = processor.tokenizer
    special = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "intermediate_size": 320,
        "num_hidden_layers": blocks,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": 0.04,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        "bos_token_id": special("<|endoftext|>"),
        "eos_token_id": special("<|im_end|>"),
        "pad_token_id": special("<|endoftext|>"),
        "tie_word_embeddings": True,
    }
    vision = {
        "depth": depth,
        "embed_dim": 96,
        "hidden_size": HIDDEN,
        "num_heads": 4,
        "mlp_ratio": 4,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "initializer_range": 0.04,
    }
    return Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=special("<|image_pad|>"),
        video_token_id=special("<|video_pad|>"),
        vision_start_token_id=special("<|vision_start|>"),
        vision_end_token_id=special("<|vision_end|>"),
        tie_word_embeddings=True,
        dtype="float32",
    )


def make_model(processor: Qwen2VLProcessor, seed: int, **shape: int) -> Qwen2VLForConditionalGeneration:
    """Build the model with weights drawn from the seed; leaves the caller's generator as it was. shape: of `make_config`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(STREAM + seed)
        model = Qwen2VLForConditionalGeneration(make_config(processor, **shape))
        table = model.get_input_embeddings().weight
        with torch.no_grad():
            table.normal_(0.0, EMBEDDING_STD)
    look_back(model)
    table.requires_grad_(False)
    model.tie_weights()
    model.generation_config.do_sample = False
    return model


@torch.no_grad()
def look_back(model: Qwen2VLForConditionalGeneration, head: int = 1, pairs: int = 6, strength: float = 5.0) -> None:
    """Start one head of block 1 as a previous-token head, so that a noun finds its adjective.

    Biases of query and key, d rotary positions apart, score strength^2 sum_i cos(f_i (d - 1)): highest at d = 1.
    Adam at a rate of 2e-3 needs a thousand steps to grow biases of this size by itself.
    """
    text = model.model.language_model
    attention = text.layers[0].self_attn
    size, key_head = attention.head_dim, head // attention.num_key_value_groups
    frequencies = text.rotary_emb.inv_freq[:pairs]
    query = attention.q_proj.bias[head * size : (head + 1) * size]
    key = attention.k_proj.bias[key_head * size : (key_head + 1) * size]
    query[:pairs] = strength * frequencies.cos()
    query[size // 2 : size // 2 + pairs] = -strength * frequencies.sin()
    key[:pairs] = strength
