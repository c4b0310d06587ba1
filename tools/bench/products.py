"""A drawn product set, several questions about each picture, and a checkpoint of Qwen2-VL-2B's widths with two blocks; made on first use.

The pictures are those of `lab.curation`'s drawn catalogue: equal things of one colour, shape and pattern on a light ground. Weights are
random, in bfloat16 as published; the tokenizer is the tiny base's, over a vocabulary of 151,936 rows.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from lab import model
from lab.curation.sources.drawn import COUNTS, Design
from lab.data import scenes
from tools.bench import inputs

SEED = 7
MANY, FEW = {"train": 96, "minival": 6, "dev": 6}, {"train": 4, "minival": 2, "dev": 2}
"""Products in each split."""
SMALL, PHOTOGRAPH = (256, 256), (640, 480)
"""Of a picture: 81 and 391 tokens."""
MOST_TOKENS = 1280
BLOCKS = 2


def questions(design: Design) -> list[tuple[str, str]]:
    """Questions about a product with their answers, the ones that a shop would ask first."""
    colours: list[str] = list(scenes.RGB)
    shapes: list[str] = list(scenes.SHAPES)
    other = colours[(colours.index(design.colour) + design.arrangement % 2) % len(colours)]
    shape = shapes[(shapes.index(design.shape) + design.arrangement % 2) % len(shapes)]
    said = {True: "yes", False: "no"}
    return [
        ("What colour is it?", design.colour),
        ("What shape is it?", design.shape),
        ("How many are there?", COUNTS[design.count - 1]),
        ("Is it solid or striped?", design.pattern),
        (f"Is it {other}?", said[other == design.colour]),
        ("Are there more than two?", said[design.count > 2]),
        (f"Is it a {shape}?", said[shape == design.shape]),
        ("What colour and shape is it?", f"{design.colour} {design.shape}"),
    ]


def write(folder: Path, size: tuple[int, int], asked: Sequence[int], products: dict[str, int]) -> None:
    """A folder of pictures and `questions.jsonl`. asked: how many questions of the first product, of the second, ..., in turn."""
    rng, rows = np.random.default_rng(SEED), []
    design: Design | None = None
    for number, split in enumerate(split for split, count in products.items() for _ in range(count)):
        design = Design.next(number, design, rng)
        name = f"{number:04d}.jpg"
        Image.open(io.BytesIO(design.picture(SEED))).resize(size, Image.Resampling.BICUBIC).save(folder / name, quality=90)
        for question, answer in questions(design)[: asked[number % len(asked)]]:
            rows.append({"image": name, "question": question, "answer": answer, "split": split, "group": name})
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def config() -> Qwen2VLConfig:
    """The tiny base's config with the 2B's widths, two blocks deep."""
    values = Qwen2VLConfig.from_pretrained(model.locate("tiny_base")).to_dict()
    text, vision = values["text_config"], values["vision_config"]
    text |= {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": BLOCKS, "num_attention_heads": 12, "num_key_value_heads": 2}
    text |= {"vocab_size": 151936, "initializer_range": 0.02, "layer_types": ["full_attention"] * BLOCKS, "tie_word_embeddings": True}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    vision |= {"depth": BLOCKS, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16, "patch_size": inputs.PATCH}
    return Qwen2VLConfig.from_dict({**values, "tie_word_embeddings": True})


def write_checkpoint(folder: Path) -> None:
    """Random weights in bfloat16."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        random = Qwen2VLForConditionalGeneration._from_config(config(), dtype=torch.bfloat16)
    random.generation_config.do_sample = False
    random.save_pretrained(folder)
    inputs.processor(MOST_TOKENS).save_pretrained(folder)
