"""What is measured: pictures stored as photographs are, and a checkpoint in a published model's proportions; made on first use.

Pictures: 640 x 480 JPEG files in the folder layout of `data=nlvr2`, scenes and statements those of `data=pairs`. A drawing compresses
better than a photograph and is decoded faster, so what is saved by not decoding it is rather more on real data. NLVR2 names its
files `.png` whatever they hold; the reader goes by content.

Checkpoint: a Qwen2-VL of 61 M random parameters, patches of 14 pixels, 54 tokens for a picture of 640 x 480.

                     Qwen2-VL-2B      here
    language model   1,310 M  59 %    37 M  61 %    hidden 512, 7 blocks, 4 heads of 128, feed-forward 5.75 times as wide
    tower, merger      665 M  30 %    20 M  32 %    width 320, 14 blocks, 4 heads of 80
    word embeddings    233 M  11 %     4 M   7 %    8,192 words, of which the tiny base's tokenizer uses 768
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoProcessor,
    ProcessorMixin,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from lab import model
from lab.data.scenes import PALETTES, draw
from lab.data.sets.pairs import DECK, PER_BLOCK, make_block

SIZE = (640, 480)
STREAM = 0xBE7C4
BLOCKS = {"train": 160, "dev": 30}
"""Blocks of four image pairs and four sentences in each split: 16 statements and 8 pictures a block."""
DIRECTORIES = 20
"""Buckets of the train file; `data=nlvr2` holds the last twentieth of them out as minival."""
PATCH, MERGE, MIN_TOKENS, MAX_TOKENS = 14, 2, 4, 64
HIDDEN = 512


def write_once(folder: Path, write: Callable[[Path], None]) -> Path:
    """Have a folder written unless it is there; it appears under its name only when it is complete."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write(work)
        work.chmod(0o755)
        os.replace(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def write_pictures(folder: Path, blocks: dict[str, int] = BLOCKS) -> None:
    """Draw the data set."""
    for number, (split, count) in enumerate(blocks.items()):
        records = [record for block in range(count) for record in write_block(folder, split, number, block)]
        (folder / f"{split}.json").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def write_block(folder: Path, split: str, number: int, block: int) -> list[dict[str, object]]:
    """Draw one block's pictures into the folder and return its records, in NLVR2's own form."""
    rng = np.random.default_rng([STREAM, number, block])
    scenes, questions = make_block(rng, PALETTES["medium"], rng.permutation(DECK)[:PER_BLOCK].tolist())
    directory = block % DIRECTORIES
    images = folder / "images" / split / str(directory) if split == "train" else folder / "images" / split
    images.mkdir(parents=True, exist_ok=True)
    records = []
    for pair, sides in enumerate(scenes):
        for side, scene in enumerate(sides):
            picture = draw(scene).resize(SIZE, Image.Resampling.BICUBIC)
            picture.save(images / f"{split}-{block}-{pair}-img{side}.png", format="JPEG", quality=90)
        for sentence, (statement, truth) in enumerate(questions):
            record: dict[str, object] = {"identifier": f"{split}-{block}-{pair}-{sentence}", "sentence": statement.text}
            records.append({**record, "label": str(truth[pair]), **({"directory": directory} if split == "train" else {})})
    return records


def processor(most: int = MAX_TOKENS) -> ProcessorMixin:
    """The tiny base's tokenizer and template with image steps of the real patch size. most: tokens of a picture."""
    tiny, side = AutoProcessor.from_pretrained(model.locate("tiny_base")), (PATCH * MERGE) ** 2
    size = {"shortest_edge": MIN_TOKENS * side, "longest_edge": most * side}
    steps = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2, "size": size}
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(**steps),
        tokenizer=tiny.tokenizer,
        video_processor=Qwen2VLVideoProcessor(**steps),
        chat_template=tiny.chat_template,
    )


def config() -> Qwen2VLConfig:
    """The tiny base's config with other sizes."""
    values = Qwen2VLConfig.from_pretrained(model.locate("tiny_base")).to_dict()
    text, vision = values["text_config"], values["vision_config"]
    text |= {"hidden_size": HIDDEN, "intermediate_size": 2944, "num_hidden_layers": 7, "num_attention_heads": 4}
    text |= {"num_key_value_heads": 2, "vocab_size": 8192, "initializer_range": 0.02, "layer_types": ["full_attention"] * 7}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    vision |= {"depth": 14, "embed_dim": 320, "hidden_size": HIDDEN, "num_heads": 4, "patch_size": PATCH}
    return Qwen2VLConfig.from_dict(values)


def write_checkpoint(folder: Path) -> None:
    """Random weights in float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(60)
        random = Qwen2VLForConditionalGeneration(config())
    random.generation_config.do_sample = False
    random.save_pretrained(folder)
    processor().save_pretrained(folder)
