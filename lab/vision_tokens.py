"""How many tokens one image costs the language model, and how they are made fewer.

Identity: `vision_tokens=native` changes nothing; logits are bit-identical to the checkpoint's.
"""

from __future__ import annotations

from lab.config import VisionTokensDial
from lab.errors import ConfigError, did_you_mean
from lab.model import Vlm

METHODS = ("native", "resize")


def install(vlm: Vlm, dial: VisionTokensDial) -> None:
    """Make every image cost what the dial says. Raises `ConfigError` for an unknown method or an impossible budget."""
    match dial.name:
        case "native":
            if dial.budget is not None:
                raise ConfigError(
                    f"vision_tokens.budget={dial.budget}: vision_tokens=native takes no budget. "
                    f"Choose vision_tokens=resize vision_tokens.budget={dial.budget}."
                )
        case "resize":
            resize(vlm, dial.budget)
        case name:
            raise ConfigError(
                f"vision_tokens.name={name}: there is no such method.{did_you_mean(name, METHODS)} "
                f"Legal: {', '.join(METHODS)}."
            )


def resize(vlm: Vlm, budget: int | None) -> None:
    """Set the processor's pixel budget so that it makes at most `budget` tokens of an image.

    A token is a square of (patch_size x merge_size)^2 pixels; the processor rounds each side to whole squares and then
    keeps the area below `longest_edge`, which in Qwen-VL's processors is an area in pixels, not an edge.
    """
    if budget is None:
        raise ConfigError("vision_tokens.budget: vision_tokens=resize needs one. Give vision_tokens.budget=16, say.")
    processor = vlm.processor.image_processor
    area = (processor.patch_size * processor.merge_size) ** 2
    smallest = min(processor.size["shortest_edge"], budget * area)
    processor.size = {"shortest_edge": smallest, "longest_edge": budget * area}
