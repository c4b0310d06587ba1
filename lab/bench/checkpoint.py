"""`model=bench`: a Qwen2-VL of 61 M random parameters in the proportions of the 2B, for measuring speed and nothing else.

                     Qwen2-VL-2B      here
    language model   1,310 M  59 %    37 M  61 %    hidden 512, 7 blocks, 4 heads of 128, feed-forward 5.75 times as wide
    tower, merger      665 M  30 %    20 M  32 %    width 320, 14 blocks, 4 heads of 80
    word embeddings    233 M  11 %     4 M   7 %    8,192 words, of which the tiny base's tokenizer uses 768

Patches are of 14 pixels and at most `MAX_TOKENS` tokens are made of an image: a picture of 640 x 480 costs 54.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import ProcessorMixin, Qwen2VLConfig

TINY = Path(__file__).parents[1] / "model" / "tiny_base"
PATCH, MERGE = 14, 2
MIN_TOKENS, MAX_TOKENS = 4, 64
HIDDEN = 512
VOCABULARY = 8192
SEED = 60


def processor() -> ProcessorMixin:
    """The tiny base's tokenizer and template with image steps of the real patch size."""
    from transformers import AutoProcessor, Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    tiny = AutoProcessor.from_pretrained(TINY)
    side = (PATCH * MERGE) ** 2
    size = {"shortest_edge": MIN_TOKENS * side, "longest_edge": MAX_TOKENS * side}
    steps: dict[str, Any] = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2, "size": size}
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(**steps),
        tokenizer=tiny.tokenizer,
        video_processor=Qwen2VLVideoProcessor(**steps),
        chat_template=tiny.chat_template,
    )


def config() -> Qwen2VLConfig:
    """The tiny base's config with other sizes."""
    from transformers import Qwen2VLConfig

    made = Qwen2VLConfig.from_pretrained(TINY).to_dict()
    text, vision = made["text_config"], made["vision_config"]
    text |= {"hidden_size": HIDDEN, "intermediate_size": 2944, "num_hidden_layers": 7, "num_attention_heads": 4}
    text |= {"num_key_value_heads": 2, "vocab_size": VOCABULARY, "initializer_range": 0.02, "layer_types": ["full_attention"] * 7}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    vision |= {"depth": 14, "embed_dim": 320, "hidden_size": HIDDEN, "num_heads": 4, "patch_size": PATCH}
    return Qwen2VLConfig.from_dict(made)


def make(folder: Path) -> Path:
    """Write the checkpoint unless it is there; a folder appears under its name only when it is complete."""
    if folder.is_dir():
        return folder
    import torch
    from transformers import Qwen2VLForConditionalGeneration

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = Qwen2VLForConditionalGeneration(config())
    model.generation_config.do_sample = False
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        model.save_pretrained(work)
        processor().save_pretrained(work)
        work.chmod(0o755)
        os.replace(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder
