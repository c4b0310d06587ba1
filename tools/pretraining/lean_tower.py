"""The vision tower on images of one size as one batch: what the module computes image by image, in half the time."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor
from transformers.models.qwen2_vl.modeling_qwen2_vl import rotate_half
from transformers.vision_utils import get_vision_position_ids

from tools.pretraining.tokenizer import MERGE, PATCH


def to_patches(processor: Qwen2VLProcessor, images: list[Image.Image]) -> tuple[torch.Tensor, tuple[int, int]]:
    """Return normalised patches [B, patches, 3 * 8 * 8] in the processor's order and the grid (rows, columns) of cells.

    Images whose sides are not multiples of a cell go through the processor's own resizing.
    """
    cell = PATCH * MERGE
    width, height = images[0].size
    steps = processor.image_processor
    if width % cell or height % cell:
        inputs = steps(images=images, return_tensors="pt")
        _, rows, columns = inputs["image_grid_thw"][0].tolist()
        pixels = inputs["pixel_values"].unflatten(0, (len(images), -1)).unflatten(-1, (3, 2, -1))[..., 0, :].flatten(-2)
        return pixels, (rows // MERGE, columns // MERGE)
    raw = torch.from_numpy(np.stack([np.asarray(image) for image in images])).float()
    mean, std = (torch.tensor(values) for values in (steps.image_mean, steps.image_std))
    pixels = (raw * steps.rescale_factor - mean) / std
    rows, columns = height // cell, width // cell
    pixels = pixels.reshape(len(images), rows, MERGE, PATCH, columns, MERGE, PATCH, 3)
    return pixels.permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(len(images), rows * columns * MERGE**2, -1), (rows, columns)


def features_of(
    model: Qwen2VLForConditionalGeneration, patches: torch.Tensor, grid: tuple[int, int]
) -> torch.Tensor:
    """Return merged features [B, cells, hidden], as `get_image_features` does."""
    tower = model.model.visual
    weight = tower.patch_embed.proj.weight.sum(2).flatten(1)  # both frames of an image are the same
    hidden = functional.linear(patches, weight)
    thw = torch.tensor([[1, grid[0] * MERGE, grid[1] * MERGE]])
    cos, sin = tower.rotary_pos_emb(hidden, get_vision_position_ids(thw, MERGE))
    cos, sin = cos.unsqueeze(-2).float(), sin.unsqueeze(-2).float()
    for block in tower.blocks:
        attention = block.attn
        qkv = attention.qkv(block.norm1(hidden)).unflatten(-1, (3, attention.num_heads, -1))
        query, key, value = qkv.unbind(2)
        query, key = (t * cos + rotate_half(t) * sin for t in (query, key))
        query, key, value = (t.transpose(1, 2) for t in (query, key, value))
        mixed = functional.scaled_dot_product_attention(query, key, value, scale=attention.scaling)
        hidden = hidden + attention.proj(mixed.transpose(1, 2).flatten(-2))
        hidden = hidden + block.mlp(block.norm2(hidden))
    return tower.merger(hidden.flatten(0, 1)).unflatten(0, (len(patches), -1))
