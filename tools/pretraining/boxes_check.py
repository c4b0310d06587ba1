"""`python -m tools.pretraining.boxes_check DIR`: how well a checkpoint boxes figures in pictures that no stage has drawn.

One figure a picture, "Box the red circle.", answered greedily: mean IoU, the share above .5, and the share of pictures without such a figure
that are answered with `none`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from lab import paths
from lab.answers.regions import read
from lab.statistics.detection import iou
from tools.pretraining.pictures import COLOURS, Picture, compose_picture, draw_picture
from tools.pretraining.recipe import STREAM
from tools.pretraining.sequence_packing import IMAGE

SIZES = ((64, 64), (96, 128), (128, 128))
AT_ONCE = 24


def main(arguments: Sequence[str] | None = None) -> None:
    """Command-line entry point."""
    parser = argparse.ArgumentParser(prog="python -m tools.pretraining.boxes_check", description=__doc__)
    parser.add_argument("folder", type=paths.argument, help="the checkpoint")
    parser.add_argument("--number", type=int, default=96, help="pictures of each size")
    options = parser.parse_args(arguments)
    for size in SIZES:
        ious, none = check(options.folder, size, options.number)
        print(f"{size[0]} x {size[1]}: mean IoU {np.mean(ious):.2f}, above .5 {np.mean(ious > 0.5):.2f}, none where there is none {none:.2f}")


def check(folder: Path, size: tuple[int, int], number: int) -> tuple[np.ndarray, float]:
    """IoU of each of `number` pictures, 0 without one box, and the share of them in which an absent figure is answered with none."""
    model = Qwen2VLForConditionalGeneration.from_pretrained(folder).eval()
    processor = Qwen2VLProcessor.from_pretrained(folder)
    rng = np.random.default_rng([STREAM, 0, 10, *size])
    pictures = [compose_picture(rng, size, (1,)) for _ in range(number)]
    ious, none = [], []
    for start in range(0, number, AT_ONCE):
        part = pictures[start : start + AT_ONCE]
        for picture, text in zip(part, answers(model, processor, part, [picture.figures[0].name for picture in part]), strict=True):
            boxes = read(text, boxes="qwen2", size=size).regions
            ious.append(iou(boxes[0][1:], picture.figures[0].box) if len(boxes) == 1 else 0.0)
        absent = [f"{other_colour(picture)} {picture.figures[0].shape}" for picture in part]
        none += [read(text, boxes="qwen2", size=size).status == "empty" for text in answers(model, processor, part, absent)]
    return np.array(ious), float(np.mean(none))


def other_colour(picture: Picture) -> str:
    return COLOURS[COLOURS.index(picture.figures[0].colour) - 3]


@torch.no_grad()
def answers(
    model: Qwen2VLForConditionalGeneration, processor: Qwen2VLProcessor, pictures: list[Picture], kinds: list[str], most: int = 48
) -> list[str]:
    """Greedy answers to "Box the KIND.", at most so many tokens each."""
    chats = [[{"role": "user", "content": [*IMAGE, {"type": "text", "text": f"Box the {kind}."}]}] for kind in kinds]
    texts = [processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    inputs = processor(text=texts, images=[draw_picture(picture) for picture in pictures], padding=True, return_tensors="pt")
    written = model.generate(**inputs, max_new_tokens=most, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    return [text.split("<|im_end|>")[0] for text in processor.tokenizer.batch_decode(written)]


if __name__ == "__main__":
    main()
